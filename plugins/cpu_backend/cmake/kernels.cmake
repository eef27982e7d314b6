# Library rtp_cpu_kernels: every kernel file compiled once per instruction set. Never -march=native: which set runs is
# decided at run time. No fused or reordered arithmetic (-ffp-contract=off, no -ffast-math): all sets round alike.
set(kernel_files context_attention decode_attention elementwise gemm gemm_quant kv norm quantize rope rows rows16
  sample softmax table)
list(TRANSFORM kernel_files REPLACE "(.+)" "${CMAKE_CURRENT_LIST_DIR}/../csrc/\\1.c")

set(isas portable)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$" AND CMAKE_SIZEOF_VOID_P EQUAL 8)
  list(APPEND isas avx2 avx512)
endif()
set(flags_portable)
set(flags_avx2 -mavx2 -mfma -mf16c)
set(flags_avx512 ${flags_avx2} -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni)

add_library(rtp_cpu_kernels STATIC
  ${CMAKE_CURRENT_LIST_DIR}/../csrc/dispatch.c ${CMAKE_CURRENT_LIST_DIR}/../csrc/tape.c
  ${CMAKE_CURRENT_LIST_DIR}/../csrc/thread_pool.c)
set(targets rtp_cpu_kernels)
foreach(isa IN LISTS isas)
  string(TOUPPER ${isa} ISA)
  add_library(kernels_${isa} OBJECT ${kernel_files})
  target_compile_definitions(kernels_${isa} PRIVATE RTP_ISA=${isa} RTP_ISA_${ISA})
  target_compile_options(kernels_${isa} PRIVATE ${flags_${isa}})
  target_sources(rtp_cpu_kernels PRIVATE $<TARGET_OBJECTS:kernels_${isa}>)
  list(APPEND targets kernels_${isa})
endforeach()

foreach(target IN LISTS targets)
  set_target_properties(${target} PROPERTIES
    C_STANDARD 11 C_EXTENSIONS OFF POSITION_INDEPENDENT_CODE ON C_VISIBILITY_PRESET hidden)
  target_compile_definitions(${target} PRIVATE _POSIX_C_SOURCE=200809L)
  target_compile_options(${target} PRIVATE -Wall -Wextra -Werror -ffp-contract=off ${RTP_CPU_EXTRA_FLAGS})
  if("avx512" IN_LIST isas)
    target_compile_definitions(${target} PRIVATE RTP_CPU_HAVE_X86)
  endif()
endforeach()
target_link_libraries(rtp_cpu_kernels PUBLIC Threads::Threads m)
