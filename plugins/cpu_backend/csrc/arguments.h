/* The arguments of every kernel after the device, in order: what an entry takes, a tape keeps and a replay passes on.
   A(type, name) says what becomes of one. The declarations are those of rtp_cpu.h, which the compiler compares. */

#ifndef RTP_CPU_ARGUMENTS_H
#define RTP_CPU_ARGUMENTS_H

/* clang-format off */
#define ARGUMENTS_binary(A) \
    A(int, op) A(int, dtype) A(void *, out) A(const void *, a) A(const void *, b) A(int64_t, rows) A(int64_t, cols) \
    A(int64_t, out_row) A(int64_t, a_row) A(int64_t, b_row) A(int64_t, b_column)
#define ARGUMENTS_activation(A) \
    A(int, kind) A(int, dtype) A(void *, out) A(const void *, x) A(int64_t, rows) A(int64_t, cols) \
    A(int64_t, out_row) A(int64_t, x_row)
#define ARGUMENTS_gated_activation(A) \
    A(int, kind) A(int, dtype) A(void *, out) A(const void *, gate) A(const void *, up) A(int64_t, rows) \
    A(int64_t, cols) A(int64_t, out_row) A(int64_t, gate_row) A(int64_t, up_row)
#define ARGUMENTS_cast(A) \
    A(int, out_dtype) A(void *, out) A(int, x_dtype) A(const void *, x) A(int64_t, rows) A(int64_t, cols) \
    A(int64_t, out_row) A(int64_t, x_row)
#define ARGUMENTS_norm(A) \
    A(int, kind) A(int, dtype) A(void *, out) A(void *, sum) A(const void *, x) A(const void *, residual) \
    A(int, weight_dtype) A(const void *, weight) A(const void *, bias) A(float, eps) A(int64_t, rows) \
    A(int64_t, cols) A(int64_t, out_row) A(int64_t, sum_row) A(int64_t, x_row) A(int64_t, residual_row)
#define ARGUMENTS_softmax(A) \
    A(int, dtype) A(void *, out) A(const void *, x) A(const float *, mask) A(int64_t, mask_rows) A(float, scale) \
    A(float, softcap) A(int64_t, rows) A(int64_t, cols) A(int64_t, out_row) A(int64_t, x_row) A(int64_t, mask_row)
#define ARGUMENTS_rope(A) \
    A(int, dtype) A(void *, out) A(const void *, x) A(const float *, cos) A(const float *, sin) \
    A(const int32_t *, positions) A(int64_t, tokens) A(int64_t, heads) A(int64_t, head_dim) A(int64_t, half) \
    A(int64_t, max_positions) A(int64_t, out_token) A(int64_t, out_head) A(int64_t, x_token) A(int64_t, x_head)
#define ARGUMENTS_gather_rows(A) \
    A(int, out_dtype) A(void *, out) A(int, table_dtype) A(const void *, table) A(const int32_t *, ids) \
    A(int64_t, count) A(int64_t, table_rows) A(int64_t, cols) A(int64_t, out_row) A(int64_t, table_row)
#define ARGUMENTS_top_k(A) \
    A(int, dtype) A(void *, values) A(int32_t *, indices) A(const void *, x) A(int64_t, rows) A(int64_t, cols) \
    A(int64_t, k) A(int64_t, x_row)
#define ARGUMENTS_sample(A) \
    A(float *, values) A(int32_t *, indices) A(const float *, x) A(const float *, temperature) \
    A(const int64_t *, top_k) A(const float *, top_p) A(const float *, min_p) A(const double *, uniforms) \
    A(int64_t, rows) A(int64_t, cols) A(int64_t, x_row)
#define ARGUMENTS_copy(A) \
    A(int, itemsize) A(int, rank) A(const int64_t *, shape) A(void *, dst) A(const int64_t *, dst_strides) \
    A(const void *, src) A(const int64_t *, src_strides)
#define ARGUMENTS_gemm(A) \
    A(int, dtype) A(void *, out) A(const void *, a) A(int, b_dtype) A(const void *, b) A(int, bias_dtype) \
    A(const void *, bias) A(int, trans_b) A(int64_t, m) A(int64_t, n) A(int64_t, k) A(int64_t, out_row) \
    A(int64_t, a_row) A(int64_t, b_row) A(int64_t, batch) A(const int64_t *, offsets)
#define ARGUMENTS_pairs16_pack(A) \
    A(uint16_t *, out) A(const uint16_t *, b) A(int64_t, n) A(int64_t, k) A(int64_t, b_row)
#define ARGUMENTS_pairs16_unpack(A) \
    A(int, dtype) A(void *, out) A(const uint16_t *, w) A(const int32_t *, ids) A(int64_t, count) A(int64_t, n) \
    A(int64_t, k) A(int64_t, out_row)
#define ARGUMENTS_gemm_pairs16(A) \
    A(int, dtype) A(void *, out) A(const void *, a) A(const uint16_t *, w) A(int, bias_dtype) A(const void *, bias) \
    A(int64_t, m) A(int64_t, n) A(int64_t, k) A(int64_t, out_row) A(int64_t, a_row)
#define ARGUMENTS_rows16_pack(A) \
    A(int, scheme) A(uint8_t *, out) A(const rtp_cpu_plain *, plain) A(int64_t, n) A(int64_t, k)
#define ARGUMENTS_gemm_rows16(A) \
    A(int, scheme) A(int, dtype) A(void *, out) A(const void *, a) A(const uint8_t *, w) \
    A(int, bias_dtype) A(const void *, bias) A(int64_t, m) A(int64_t, n) A(int64_t, k) A(int64_t, out_row) \
    A(int64_t, a_row)
#define ARGUMENTS_gated_gemm_rows16(A) \
    A(int, scheme) A(int, kind) A(int, dtype) A(void *, out) A(const void *, a) A(const uint8_t *, w) \
    A(int, bias_dtype) A(const void *, bias) A(int64_t, m) A(int64_t, n) A(int64_t, k) A(int64_t, out_row) \
    A(int64_t, a_row)
#define ARGUMENTS_rows16_unpack(A) \
    A(int, scheme) A(int, dtype) A(void *, out) A(const uint8_t *, w) A(const int32_t *, ids) A(int64_t, count) \
    A(int64_t, n) A(int64_t, k) A(int64_t, out_row)
#define ARGUMENTS_quantize(A) \
    A(int, scheme) A(int, dtype) A(const rtp_cpu_plain *, plain) A(const void *, x) A(int64_t, n) A(int64_t, k) \
    A(int64_t, x_row)
#define ARGUMENTS_dequantize(A) \
    A(int, scheme) A(int, dtype) A(void *, out) A(const rtp_cpu_plain *, plain) A(const int32_t *, ids) \
    A(int64_t, count) A(int64_t, n) A(int64_t, k) A(int64_t, out_row)
#define ARGUMENTS_kv_write(A) \
    A(const rtp_cpu_kv *, kv) A(int, dtype) A(const void *, k) A(const void *, v) A(const int32_t *, slots) \
    A(int64_t, tokens) A(int64_t, k_token) A(int64_t, k_head) A(int64_t, v_token) A(int64_t, v_head)
#define ARGUMENTS_kv_gather(A) \
    A(const rtp_cpu_kv *, kv) A(void *, k) A(void *, v) A(const int32_t *, block_table) A(int64_t, num_tokens)
#define ARGUMENTS_decode_attention(A) \
    A(const rtp_cpu_kv *, kv) A(int, dtype) A(void *, out) A(const void *, q) A(const int32_t *, block_tables) \
    A(int64_t, table_row) A(const int32_t *, context_lens) A(int64_t, requests) A(int64_t, heads) \
    A(int64_t, out_token) A(int64_t, out_head) A(int64_t, q_token) A(int64_t, q_head) A(float, scale)
#define ARGUMENTS_context_attention(A) \
    A(const rtp_cpu_kv *, kv) A(int, dtype) A(void *, out) A(const void *, q) A(const int32_t *, block_tables) \
    A(int64_t, table_row) A(const int32_t *, context_lens) A(const int32_t *, query_starts) A(int64_t, requests) \
    A(int64_t, heads) A(int64_t, out_token) A(int64_t, out_head) A(int64_t, q_token) A(int64_t, q_head) \
    A(float, scale)
#define ARGUMENTS_encoder_attention(A) \
    A(int, dtype) A(void *, out) A(const void *, q) A(const void *, k) A(const void *, v) \
    A(const int32_t *, lengths) A(const int32_t *, starts) A(int64_t, requests) A(int64_t, heads) \
    A(int64_t, kv_heads) A(int64_t, head_dim) A(int64_t, out_token) A(int64_t, q_token) A(int64_t, k_token) \
    A(int64_t, v_token) A(float, scale)
#define ARGUMENTS_encoder_layer(A) \
    A(const rtp_cpu_encoder_weights *, weights) A(float *, x) A(void *, work) A(const int32_t *, lengths) \
    A(const int32_t *, starts) A(int64_t, requests) A(int64_t, x_row)

/* clang-format on */

#endif
