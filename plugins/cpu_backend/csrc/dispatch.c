/* The public functions: which instruction sets there are, the device, and one entry per kernel, which takes the
   device's turn and calls the kernel of its ISA. */

#include <stdlib.h>

#include "internal.h"

static const struct rtp_cpu_kernels *kernels_of(int isa) {
    if (isa == RTP_CPU_PORTABLE) return rtp_cpu_kernels_portable();
#ifdef RTP_CPU_HAVE_X86
    __builtin_cpu_init(); /* its answers include what the operating system saves */
    int has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    if (isa == RTP_CPU_AVX2 && has_avx2) return rtp_cpu_kernels_avx2();
    if (isa == RTP_CPU_AVX512 && has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vnni"))
        return rtp_cpu_kernels_avx512();
#endif
    return NULL;
}

int rtp_cpu_isa_available(int isa) { return kernels_of(isa) != NULL; }

rtp_cpu_device *rtp_cpu_device_create(int isa, int threads, int rehearses, rtp_cpu_scratch scratch, void *context) {
    const struct rtp_cpu_kernels *kernels = kernels_of(isa);
    rtp_cpu_device *device = kernels ? malloc(sizeof *device) : NULL;
    if (!device) return NULL;
    *device = (rtp_cpu_device){kernels, rtp_pool_create(threads, rehearses, scratch, context)};
    if (device->pool) return device;
    free(device);
    return NULL;
}

void rtp_cpu_device_destroy(rtp_cpu_device *device) {
    if (!device) return;
    rtp_pool_destroy(device->pool);
    free(device);
}

int64_t rtp_cpu_rows16_bytes(int scheme, int64_t n, int64_t k) {
    static const int64_t block_bytes[] = {288, 320, 544}; /* of 16 rows and 32 columns, by scheme; see rows16.h */
    if (scheme < RTP_CPU_Q4_0 || scheme > RTP_CPU_Q8_0) return 0;
    return (n + 15) / 16 * (k / 32) * block_bytes[scheme];
}

#define ENTRY(name, parameters, arguments)            \
    int rtp_cpu_##name parameters {                   \
        rtp_pool_lock(device->pool);                  \
        int status = device->kernels->name arguments; \
        rtp_pool_unlock(device->pool);                \
        return status;                                \
    }

ENTRY(binary,
      (rtp_cpu_device * device, int op, int dtype, void *out, const void *a, const void *b, int64_t rows, int64_t cols,
       int64_t out_row, int64_t a_row, int64_t b_row, int64_t b_column),
      (device, op, dtype, out, a, b, rows, cols, out_row, a_row, b_row, b_column))
ENTRY(activation,
      (rtp_cpu_device * device, int kind, int dtype, void *out, const void *x, int64_t rows, int64_t cols,
       int64_t out_row, int64_t x_row),
      (device, kind, dtype, out, x, rows, cols, out_row, x_row))
ENTRY(gated_activation,
      (rtp_cpu_device * device, int kind, int dtype, void *out, const void *gate, const void *up, int64_t rows,
       int64_t cols, int64_t out_row, int64_t gate_row, int64_t up_row),
      (device, kind, dtype, out, gate, up, rows, cols, out_row, gate_row, up_row))
ENTRY(cast,
      (rtp_cpu_device * device, int out_dtype, void *out, int x_dtype, const void *x, int64_t rows, int64_t cols,
       int64_t out_row, int64_t x_row),
      (device, out_dtype, out, x_dtype, x, rows, cols, out_row, x_row))
ENTRY(norm,
      (rtp_cpu_device * device, int kind, int dtype, void *out, void *sum, const void *x, const void *residual,
       int weight_dtype, const void *weight, const void *bias, float eps, int64_t rows, int64_t cols, int64_t out_row,
       int64_t sum_row, int64_t x_row, int64_t residual_row),
      (device, kind, dtype, out, sum, x, residual, weight_dtype, weight, bias, eps, rows, cols, out_row, sum_row, x_row,
       residual_row))
ENTRY(softmax,
      (rtp_cpu_device * device, int dtype, void *out, const void *x, const float *mask, int64_t mask_rows, float scale,
       float softcap, int64_t rows, int64_t cols, int64_t out_row, int64_t x_row, int64_t mask_row),
      (device, dtype, out, x, mask, mask_rows, scale, softcap, rows, cols, out_row, x_row, mask_row))
ENTRY(rope,
      (rtp_cpu_device * device, int dtype, void *out, const void *x, const float *cos, const float *sin,
       const int32_t *positions, int64_t tokens, int64_t heads, int64_t head_dim, int64_t half, int64_t max_positions,
       int64_t out_token, int64_t out_head, int64_t x_token, int64_t x_head),
      (device, dtype, out, x, cos, sin, positions, tokens, heads, head_dim, half, max_positions, out_token, out_head,
       x_token, x_head))
ENTRY(gather_rows,
      (rtp_cpu_device * device, int out_dtype, void *out, int table_dtype, const void *table, const int32_t *ids,
       int64_t count, int64_t table_rows, int64_t cols, int64_t out_row, int64_t table_row),
      (device, out_dtype, out, table_dtype, table, ids, count, table_rows, cols, out_row, table_row))
ENTRY(top_k,
      (rtp_cpu_device * device, int dtype, void *values, int32_t *indices, const void *x, int64_t rows, int64_t cols,
       int64_t k, int64_t x_row),
      (device, dtype, values, indices, x, rows, cols, k, x_row))
ENTRY(copy,
      (rtp_cpu_device * device, int itemsize, int rank, const int64_t *shape, void *dst, const int64_t *dst_strides,
       const void *src, const int64_t *src_strides),
      (device, itemsize, rank, shape, dst, dst_strides, src, src_strides))
ENTRY(gemm,
      (rtp_cpu_device * device, int dtype, void *out, const void *a, int b_dtype, const void *b, int bias_dtype,
       const void *bias, int trans_b, int64_t m, int64_t n, int64_t k, int64_t out_row, int64_t a_row, int64_t b_row,
       int64_t batch, const int64_t *offsets),
      (device, dtype, out, a, b_dtype, b, bias_dtype, bias, trans_b, m, n, k, out_row, a_row, b_row, batch, offsets))
ENTRY(rows16_pack,
      (rtp_cpu_device * device, int scheme, uint8_t *out, const uint8_t *payload, const uint16_t *scales,
       const uint16_t *zeros, int64_t n, int64_t k),
      (device, scheme, out, payload, scales, zeros, n, k))
ENTRY(gemm_rows16,
      (rtp_cpu_device * device, int scheme, int levels, int dtype, void *out, const void *a, const uint8_t *w,
       int bias_dtype, const void *bias, int64_t m, int64_t n, int64_t k, int64_t out_row, int64_t a_row),
      (device, scheme, levels, dtype, out, a, w, bias_dtype, bias, m, n, k, out_row, a_row))
ENTRY(rows16_unpack,
      (rtp_cpu_device * device, int scheme, int dtype, void *out, const uint8_t *w, const int32_t *ids, int64_t count,
       int64_t n, int64_t k, int64_t out_row),
      (device, scheme, dtype, out, w, ids, count, n, k, out_row))
ENTRY(quantize,
      (rtp_cpu_device * device, int scheme, int dtype, uint8_t *payload, uint16_t *scales, uint16_t *zeros,
       const void *x, int64_t n, int64_t k, int64_t x_row),
      (device, scheme, dtype, payload, scales, zeros, x, n, k, x_row))
ENTRY(dequantize,
      (rtp_cpu_device * device, int scheme, int dtype, void *out, const uint8_t *payload, const uint16_t *scales,
       const uint16_t *zeros, const int32_t *ids, int64_t count, int64_t n, int64_t k, int64_t out_row),
      (device, scheme, dtype, out, payload, scales, zeros, ids, count, n, k, out_row))
ENTRY(kv_write,
      (rtp_cpu_device * device, const rtp_cpu_kv *kv, int dtype, const void *k, const void *v, const int32_t *slots,
       int64_t tokens, int64_t k_token, int64_t k_head, int64_t v_token, int64_t v_head),
      (device, kv, dtype, k, v, slots, tokens, k_token, k_head, v_token, v_head))
ENTRY(kv_gather,
      (rtp_cpu_device * device, const rtp_cpu_kv *kv, void *k, void *v, const int32_t *block_table, int64_t num_tokens),
      (device, kv, k, v, block_table, num_tokens))
ENTRY(decode_attention,
      (rtp_cpu_device * device, const rtp_cpu_kv *kv, int dtype, void *out, const void *q, const int32_t *block_tables,
       int64_t table_row, const int32_t *context_lens, int64_t requests, int64_t heads, int64_t out_token,
       int64_t out_head, int64_t q_token, int64_t q_head, float scale),
      (device, kv, dtype, out, q, block_tables, table_row, context_lens, requests, heads, out_token, out_head, q_token,
       q_head, scale))
ENTRY(context_attention,
      (rtp_cpu_device * device, const rtp_cpu_kv *kv, int dtype, void *out, const void *q, const int32_t *block_tables,
       int64_t table_row, const int32_t *context_lens, const int32_t *query_starts, int64_t requests, int64_t heads,
       int64_t out_token, int64_t out_head, int64_t q_token, int64_t q_head, float scale),
      (device, kv, dtype, out, q, block_tables, table_row, context_lens, query_starts, requests, heads, out_token,
       out_head, q_token, q_head, scale))
