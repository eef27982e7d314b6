/* What the C files share: the device, its pool, and the table of kernels of one instruction set. */

#ifndef RTP_CPU_INTERNAL_H
#define RTP_CPU_INTERNAL_H

#include <stddef.h>
#include <stdint.h>

#include "rtp_cpu.h"

#ifndef INLINE /* tests have functions, which sanitizers meet once and not in every place */
#define INLINE static inline __attribute__((always_inline, unused))
#endif

/* Every kernel once: the table, the ISA's definition of it and the public entry follow these lists. */
/* clang-format off */
#define RTP_BF16_KERNELS(X) X(gemm_pairs16) /* all that differs where there is a dot product of bf16 */
#define RTP_OTHER_KERNELS(X)                                                                                           \
    X(binary) X(activation) X(gated_activation) X(cast) X(norm) X(softmax) X(rope) X(gather_rows) X(top_k)             \
    X(sample) X(copy) X(gemm) X(pairs16_pack) X(pairs16_unpack) X(rows16_pack) X(gemm_rows16) X(gated_gemm_rows16)     \
    X(rows16_unpack) X(quantize) X(dequantize) X(kv_write) X(kv_gather) X(decode_attention) X(context_attention)       \
    X(encoder_attention) X(encoder_layer)
#define RTP_KERNELS(X) RTP_BF16_KERNELS(X) RTP_OTHER_KERNELS(X)
/* clang-format on */

struct rtp_cpu_kernels {
#define RTP_MEMBER(name) __typeof__(rtp_cpu_##name) *name;
    RTP_KERNELS(RTP_MEMBER)
#undef RTP_MEMBER
};

const struct rtp_cpu_kernels *rtp_cpu_kernels_portable(void);
const struct rtp_cpu_kernels *rtp_cpu_kernels_avx2(void);
const struct rtp_cpu_kernels *rtp_cpu_kernels_avxvnni(void);
const struct rtp_cpu_kernels *rtp_cpu_kernels_avx512(void);
const struct rtp_cpu_kernels *rtp_cpu_kernels_avx512bf16(void);
const struct rtp_cpu_kernels *rtp_cpu_kernels_dotprod(void);

/* Those of an rtp_cpu_isa, or NULL where it is not built in or the processor or the system does not support it. */
const struct rtp_cpu_kernels *rtp_kernels_of(int isa);

/* In a file compiled per ISA, KERNEL(norm) is this ISA's rtp_cpu_norm. */
#define RTP_PASTE2(a, b) rtp_cpu_##a##_##b
#define RTP_PASTE(a, b) RTP_PASTE2(a, b)
#define KERNEL(name) RTP_PASTE(name, RTP_ISA)

/* ---- thread pool ---- */

typedef struct rtp_pool rtp_pool;

struct rtp_cpu_device {
    const struct rtp_cpu_kernels *kernels;
    rtp_pool *pool;
    rtp_cpu_tape *tape; /* being recorded, or NULL */
};

/* Items [begin, end) of a job, with this thread's own scratch. */
typedef void (*rtp_task)(void *job, int64_t begin, int64_t end, void *scratch);

rtp_pool *rtp_pool_create(int threads, int rehearses, rtp_cpu_scratch scratch, void *context);
void rtp_pool_destroy(rtp_pool *pool);
int rtp_pool_threads(const rtp_pool *pool);
int rtp_pool_rehearses(const rtp_pool *pool);

/* Every kernel runs between these two, so that one job and one use of the scratch exist at a time. */
void rtp_pool_lock(rtp_pool *pool);
void rtp_pool_unlock(rtp_pool *pool);

/* Scratch for the whole job, returned through `shared`, and for each thread. Contents undefined, 64-byte aligned.
   Valid until the pool is unlocked. Returns an rtp_cpu_status. */
int rtp_pool_reserve(rtp_pool *pool, int64_t shared_bytes, void **shared, int64_t thread_bytes);

/* Run task over [0, count), in pieces of `grain` items or more; inline where one piece is all. Not in a rehearsal:
   what a kernel does outside of its tasks must leave the numbers of its operands alone. */
void rtp_pool_run(rtp_pool *pool, rtp_task task, void *job, int64_t count, int64_t grain);

/* Memory that items of a job read one after the other, and how much of it a piece of them does. */
typedef struct {
    const void *first; /* NULL: none that is known */
    int64_t bytes, piece_bytes;
} rtp_stream;

/* rtp_pool_run, where each item reads `item_bytes` from `first` on. */
void rtp_pool_run_over(rtp_pool *pool, rtp_task task, void *job, int64_t count, int64_t grain, const void *first,
                       int64_t item_bytes);

/* What the last of them since the pool was locked has read. */
rtp_stream rtp_pool_read(const rtp_pool *pool);

/* Let threads that wait fetch what will be read next, each some of the piece that it will probably be given. */
void rtp_pool_expect(rtp_pool *pool, rtp_stream next);

#endif
