/* The native side of rtp-cpu. This header is also what Python sees (cffi), so it holds plain declarations only.

   Letters: T tokens, R requests, H query heads, K kv heads, D head_dim, N blocks, B block size, V vocabulary.
   Strides count elements. The last axis is contiguous unless a stride for it is given.
   Functions that return int return an rtp_cpu_status. Pointers need the alignment of their element, no more. */

#ifndef RTP_CPU_H
#define RTP_CPU_H

#include <stdint.h>

enum rtp_cpu_status {
    RTP_CPU_OK = 0,
    RTP_CPU_BAD_ARGUMENT = 1,
    RTP_CPU_OUT_OF_MEMORY = 2,
    RTP_CPU_OUT_OF_RANGE = 3, /* a row id, position, slot or block id outside its table */
};

enum rtp_cpu_isa {
    RTP_CPU_PORTABLE = 0,
    RTP_CPU_AVX2 = 1,
    RTP_CPU_AVX512 = 2, /* with VNNI */
    RTP_CPU_AVXVNNI = 3, /* AVX2 and the VNNI of its width */
    RTP_CPU_DOTPROD = 4, /* of ARM */
    RTP_CPU_AVX512BF16 = 5, /* AVX-512 with VNNI and dot products of bf16 */
};
enum rtp_cpu_dtype { RTP_CPU_F32 = 0, RTP_CPU_F16 = 1, RTP_CPU_BF16 = 2 };
enum rtp_cpu_binary { RTP_CPU_ADD = 0, RTP_CPU_MUL = 1 };
enum rtp_cpu_norm_kind { RTP_CPU_RMS_NORM = 0, RTP_CPU_LAYER_NORM = 1 };
enum rtp_cpu_activation_kind {
    RTP_CPU_GELU = 0,
    RTP_CPU_GELU_TANH = 1,
    RTP_CPU_RELU = 2,
    RTP_CPU_SIGMOID = 3,
    RTP_CPU_SILU = 4,
    RTP_CPU_TANH = 5,
};
enum rtp_cpu_scheme {
    RTP_CPU_Q4_0 = 0,
    RTP_CPU_Q4_1 = 1,
    RTP_CPU_Q8_0 = 2,
    RTP_CPU_Q5_0 = 3,
    RTP_CPU_Q5_1 = 4,
    RTP_CPU_Q4_K = 5,
    RTP_CPU_Q5_K = 6,
    RTP_CPU_Q6_K = 7,
};

/* ---- device: one instruction set and one thread pool ---- */

typedef struct rtp_cpu_device rtp_cpu_device;

/* 1 where `isa` is built in and both the processor and the system support it, else 0. */
int rtp_cpu_isa_available(int isa);

/* Gives the device's work space: a block of `bytes` bytes at a multiple of 64, in place of the block that it gave
   before. NULL: none is to be had, and the one before is gone too. Runs inside a call that needs more than there is. */
typedef void *(*rtp_cpu_scratch)(void *context, int64_t bytes);

/* `threads` counts the caller's. NULL: an ISA that is not available, a bad count, or no memory or threads to be had.
   One call runs at a time; more callers wait for their turn.
   A device that rehearses checks its operands and takes its work space as if it had the threads, starts none and
   computes nothing: of what operands point to it reads positions, ids, slots, block tables and lengths, and it writes
   the indices of top_k. */
rtp_cpu_device *rtp_cpu_device_create(int isa, int threads, int rehearses, rtp_cpu_scratch scratch, void *context);

/* Stops the threads and forgets its work space. No call may be running. In a forked child, which has no workers, it
   only frees memory; every other call works there too, on the caller's thread alone. */
void rtp_cpu_device_destroy(rtp_cpu_device *device);

/* ---- capture: calls recorded once, then made again back to back ---- */

typedef struct rtp_cpu_tape rtp_cpu_tape;

/* From now on every call that succeeds is kept as well, with its arguments as they are: what they point to must be
   there, and may have other contents, whenever the tape is replayed. One caller, while it lasts. */
int rtp_cpu_record(rtp_cpu_device *device);

/* What happens now would be missing from the recording: no tape comes of it. */
void rtp_cpu_spoil_recording(rtp_cpu_device *device);

/* End the recording. NULL where it is spoilt: also by copies and batched products, whose sizes lie with the caller, and
   by a replay. */
rtp_cpu_tape *rtp_cpu_recorded(rtp_cpu_device *device);

/* Make the calls of a tape in order, in one turn of the device. The status of the first that fails, after which none
   is made, and the name of its kernel. */
int rtp_cpu_replay(rtp_cpu_device *device, rtp_cpu_tape *tape);
const char *rtp_cpu_tape_failed(const rtp_cpu_tape *tape);
int64_t rtp_cpu_tape_bytes(const rtp_cpu_tape *tape); /* that it takes from the heap */
void rtp_cpu_tape_destroy(rtp_cpu_tape *tape);

/* ---- element-wise; rows are computed in f32 and stored as `dtype` ---- */

/* out[r, c] = a[r, c] op b[r * b_row + c * b_column]: b_row = 0 broadcasts one row, b_column = 0 one column. */
int rtp_cpu_binary(rtp_cpu_device *device, int op, int dtype, void *out, const void *a, const void *b, int64_t rows,
                   int64_t cols, int64_t out_row, int64_t a_row, int64_t b_row, int64_t b_column);

/* out[r, c] = kind(x[r, c]), one of rtp_cpu_activation_kind. out may be x. */
int rtp_cpu_activation(rtp_cpu_device *device, int kind, int dtype, void *out, const void *x, int64_t rows,
                       int64_t cols, int64_t out_row, int64_t x_row);

/* out[r, c] = kind(gate[r, c]) * up[r, c]. out may be gate or up. */
int rtp_cpu_gated_activation(rtp_cpu_device *device, int kind, int dtype, void *out, const void *gate, const void *up,
                             int64_t rows, int64_t cols, int64_t out_row, int64_t gate_row, int64_t up_row);

/* out = x in another dtype, rounded to nearest even. */
int rtp_cpu_cast(rtp_cpu_device *device, int out_dtype, void *out, int x_dtype, const void *x, int64_t rows,
                 int64_t cols, int64_t out_row, int64_t x_row);

/* ---- rows ---- */

/* sum = x + residual (x alone where residual is NULL; stored where sum is not NULL); out = norm(sum as stored).
   x, residual, sum, out: [rows, cols]; weight, bias: [cols] of weight_dtype, bias for RTP_CPU_LAYER_NORM only. */
int rtp_cpu_norm(rtp_cpu_device *device, int kind, int dtype, void *out, void *sum, const void *x, const void *residual,
                 int weight_dtype, const void *weight, const void *bias, float eps, int64_t rows, int64_t cols,
                 int64_t out_row, int64_t sum_row, int64_t x_row, int64_t residual_row);

/* out = softmax(cap(x * scale) + mask); cap is softcap * tanh(. / softcap), or nothing where softcap is 0.
   mask: f32 [mask_rows, cols], row r uses row r % mask_rows; or NULL. A row of only -inf gives zeros. out may be x. */
int rtp_cpu_softmax(rtp_cpu_device *device, int dtype, void *out, const void *x, const float *mask, int64_t mask_rows,
                    float scale, float softcap, int64_t rows, int64_t cols, int64_t out_row, int64_t x_row,
                    int64_t mask_row);

/* Half-split rotation. x, out: [T, H, D] with strides; cos, sin: [max_positions, half]; positions: [T].
   Dims from 2 * half on are copied. out may be x. */
int rtp_cpu_rope(rtp_cpu_device *device, int dtype, void *out, const void *x, const float *cos, const float *sin,
                 const int32_t *positions, int64_t tokens, int64_t heads, int64_t head_dim, int64_t half,
                 int64_t max_positions, int64_t out_token, int64_t out_head, int64_t x_token, int64_t x_head);

/* out[t] = table[ids[t]] as out_dtype. table: [table_rows, cols] of table_dtype; out: [count, cols]. */
int rtp_cpu_gather_rows(rtp_cpu_device *device, int out_dtype, void *out, int table_dtype, const void *table,
                        const int32_t *ids, int64_t count, int64_t table_rows, int64_t cols, int64_t out_row,
                        int64_t table_row);

/* The k largest of each row, descending, ties lowest index first; NaN counts as smallest.
   x: [rows, cols]; values: [rows, k] of dtype; indices: [rows, k]; 0 <= k <= cols. */
int rtp_cpu_top_k(rtp_cpu_device *device, int dtype, void *values, int32_t *indices, const void *x, int64_t rows,
                  int64_t cols, int64_t k, int64_t x_row);

/* A token for each row of logits, as host_sampling.sample of rtp-core defines it, and the row's largest logit: NaN in a
   row with NaN or +inf, whose token means nothing. Rows of temperature 0 get the first largest.
   x: [rows, cols]; all else: [rows]; cols >= 1. */
int rtp_cpu_sample(rtp_cpu_device *device, float *values, int32_t *indices, const float *x, const float *temperature,
                   const int64_t *top_k, const float *top_p, const float *min_p, const double *uniforms, int64_t rows,
                   int64_t cols, int64_t x_row);

/* dst[...] = src[...] for elements of `itemsize` bytes (1, 2, 4, 8); 1 <= rank <= 6; strides per axis. No overlap. */
int rtp_cpu_copy(rtp_cpu_device *device, int itemsize, int rank, const int64_t *shape, void *dst,
                 const int64_t *dst_strides, const void *src, const int64_t *src_strides);

/* ---- matrix products, accumulated in f32 ---- */

/* out[m, n] = sum_k a[m, k] * b[...] + bias[n]. b: [K, N] with row stride b_row; with trans_b [N, K].
   offsets: [batch, 3] elements to add to out, a and b for each product, or NULL for a batch of one. */
int rtp_cpu_gemm(rtp_cpu_device *device, int dtype, void *out, const void *a, int b_dtype, const void *b,
                 int bias_dtype, const void *bias, int trans_b, int64_t m, int64_t n, int64_t k, int64_t out_row,
                 int64_t a_row, int64_t b_row, int64_t batch, const int64_t *offsets);

/* ---- bf16 weights in layout pairs16, see pairs16.h ---- */

/* Bytes of a weight [n, k]. */
int64_t rtp_cpu_pairs16_bytes(int64_t n, int64_t k);

/* b: [n, k] of bf16. */
int rtp_cpu_pairs16_pack(rtp_cpu_device *device, uint16_t *out, const uint16_t *b, int64_t n, int64_t k, int64_t b_row);

/* Rows of a weight. ids: [count] rows, or NULL for rows 0..count-1. out: [count, k] of dtype. */
int rtp_cpu_pairs16_unpack(rtp_cpu_device *device, int dtype, void *out, const uint16_t *w, const int32_t *ids,
                           int64_t count, int64_t n, int64_t k, int64_t out_row);

/* out[m, n] = a . w[n] + bias[n], accumulated in f32. a: [m, k]; w: pairs16 of [n, k].
   An instruction set that multiplies bf16 rounds a to it, to nearest even, and takes what is denormal for 0. */
int rtp_cpu_gemm_pairs16(rtp_cpu_device *device, int dtype, void *out, const void *a, const uint16_t *w, int bias_dtype,
                         const void *bias, int64_t m, int64_t n, int64_t k, int64_t out_row, int64_t a_row);

/* ---- quantized weights: groups of 32 along K, of 16 in Q6_K; K in whole super-groups of 256 in the K schemes ---- */

/* A plain weight [n, k]: codes by group (4 bits: byte i holds code i low and code 16 + i high; more bits: a byte each,
   signed where there are 8), and a scale by group, f16 or a byte to be multiplied with its super-group's f16 factor;
   zeros and their factors alike. What a scheme does not have is NULL. Not a part of any call that is recorded.
   block_bytes: from a group to the next in every part, where a file has them side by side, in schemes without
   super-groups; 0 where each part is alone. Only what reads a weight takes such. */
typedef struct rtp_cpu_plain {
    uint8_t *payload;
    void *scales, *zeros;
    uint16_t *scale_factors, *zero_factors;
    int64_t block_bytes;
} rtp_cpu_plain;

/* Bytes of a weight [n, k] in layout rows16, see rows16.h; 0 where there is none such. */
int64_t rtp_cpu_rows16_bytes(int scheme, int64_t n, int64_t k);

/* Plain parts to rows16. */
int rtp_cpu_rows16_pack(rtp_cpu_device *device, int scheme, uint8_t *out, const rtp_cpu_plain *plain, int64_t n,
                        int64_t k);

/* out[m, n] = a . w[n] + bias[n], with a quantized to int8 in groups of 32. a: [m, k]; w: rows16 of [n, k].
   The dot products of a group are exact integers; a group of a with inf or NaN makes its row of out NaN. */
int rtp_cpu_gemm_rows16(rtp_cpu_device *device, int scheme, int dtype, void *out, const void *a, const uint8_t *w,
                        int bias_dtype, const void *bias, int64_t m, int64_t n, int64_t k, int64_t out_row,
                        int64_t a_row);

/* out[m, n] = kind(a . w[n] + bias[n]) * (a . w[N + n] + bias[N + n]), a quantized as by gemm_rows16.
   w: rows16 of [2 N, k], bias: [2 N], N a multiple of 16. */
int rtp_cpu_gated_gemm_rows16(rtp_cpu_device *device, int scheme, int kind, int dtype, void *out, const void *a,
                              const uint8_t *w, int bias_dtype, const void *bias, int64_t m, int64_t n, int64_t k,
                              int64_t out_row, int64_t a_row);

/* Rows of a rows16 weight as numbers. ids: [count] rows, or NULL for rows 0..count-1. out: [count, k]. */
int rtp_cpu_rows16_unpack(rtp_cpu_device *device, int scheme, int dtype, void *out, const uint8_t *w,
                          const int32_t *ids, int64_t count, int64_t n, int64_t k, int64_t out_row);

/* x: [n, k] to plain parts, and rows of plain parts to numbers (ids as above). */
int rtp_cpu_quantize(rtp_cpu_device *device, int scheme, int dtype, const rtp_cpu_plain *plain, const void *x,
                     int64_t n, int64_t k, int64_t x_row);
int rtp_cpu_dequantize(rtp_cpu_device *device, int scheme, int dtype, void *out, const rtp_cpu_plain *plain,
                       const int32_t *ids, int64_t count, int64_t n, int64_t k, int64_t out_row);

/* ---- blocked KV: [N, 2, K, B, D], strides of N, 2, K and B given, D contiguous ---- */

typedef struct rtp_cpu_kv {
    void *data;
    int dtype;
    int64_t blocks, heads, block_size, head_dim; /* N, K, B, D */
    int64_t block_stride, part_stride, head_stride, token_stride;
} rtp_cpu_kv;

/* k, v: [T, K, D] of dtype with strides; slots: [T], slot = block * B + offset. */
int rtp_cpu_kv_write(rtp_cpu_device *device, const rtp_cpu_kv *kv, int dtype, const void *k, const void *v,
                     const int32_t *slots, int64_t tokens, int64_t k_token, int64_t k_head, int64_t v_token,
                     int64_t v_head);

/* k, v: [K, num_tokens, D] of the cache's dtype; block_table: blocks in order. */
int rtp_cpu_kv_gather(rtp_cpu_device *device, const rtp_cpu_kv *kv, void *k, void *v, const int32_t *block_table,
                      int64_t num_tokens);

/* One query token a request. q, out: [R, H, D] of dtype; block_tables: [R, table_row]; context_lens: [R].
   Softmax is online, in f32. A context of 0 gives zeros. Reads only tokens < context_lens[r]. */
int rtp_cpu_decode_attention(rtp_cpu_device *device, const rtp_cpu_kv *kv, int dtype, void *out, const void *q,
                             const int32_t *block_tables, int64_t table_row, const int32_t *context_lens,
                             int64_t requests, int64_t heads, int64_t out_token, int64_t out_head, int64_t q_token,
                             int64_t q_head, float scale);

/* Causal attention of requests with many query tokens. q, out: [T, H, D]; request r owns query rows
   query_starts[r] - query_starts[0] up to query_starts[r + 1] - query_starts[0], the last ones of its context. */
int rtp_cpu_context_attention(rtp_cpu_device *device, const rtp_cpu_kv *kv, int dtype, void *out, const void *q,
                              const int32_t *block_tables, int64_t table_row, const int32_t *context_lens,
                              const int32_t *query_starts, int64_t requests, int64_t heads, int64_t out_token,
                              int64_t out_head, int64_t q_token, int64_t q_head, float scale);

/* Attention within requests: every token sees all of its request. q, out: [T, H, D] and k, v: [T, K, D], heads without
   gaps; request r has rows starts[r] - starts[0] up to starts[r + 1] - starts[0], lengths[r] of them. */
int rtp_cpu_encoder_attention(rtp_cpu_device *device, int dtype, void *out, const void *q, const void *k,
                              const void *v, const int32_t *lengths, const int32_t *starts, int64_t requests,
                              int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t out_token, int64_t q_token,
                              int64_t k_token, int64_t v_token, float scale);

/* ---- whole layers ---- */

/* w: q8_0 in layout rows16 of [n, k]; bias: [n] or NULL. */
typedef struct rtp_cpu_linear {
    const uint8_t *w;
    const float *bias;
    int64_t n, k;
} rtp_cpu_linear;

/* weight: [E]; bias: [E] for a layer norm, NULL for a root mean square norm. */
typedef struct rtp_cpu_norm_weights {
    const float *weight, *bias;
    float eps;
} rtp_cpu_norm_weights;

/* A post-norm layer with an ungated ffn. activation: one of rtp_cpu_activation_kind; scale: of scores. */
typedef struct rtp_cpu_encoder_weights {
    rtp_cpu_linear qkv, o, up, down;
    rtp_cpu_norm_weights attention_norm, ffn_norm;
    int64_t heads, kv_heads, head_dim;
    int activation;
    float scale;
} rtp_cpu_encoder_weights;

/* Bytes of work space for that many tokens. */
int64_t rtp_cpu_encoder_layer_bytes(const rtp_cpu_encoder_weights *weights, int64_t tokens);

/* x: [T, E] in and out, requests as in encoder_attention. What meets weights is quantized to int8 in groups of 32, but for
   numbers far beyond the rest of their row, which stay floats: see packed.h. A row with inf or NaN becomes NaN. */
int rtp_cpu_encoder_layer(rtp_cpu_device *device, const rtp_cpu_encoder_weights *weights, float *x, void *work,
                          const int32_t *lengths, const int32_t *starts, int64_t requests, int64_t x_row);

#endif
