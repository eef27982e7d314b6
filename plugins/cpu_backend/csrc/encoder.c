/* A whole post-norm encoder layer in one call: its products over packed activations (linear.c), which are packed once for
   each, with the kernels of attention and norms between. */

#include "linear.h"

typedef struct {
    const packed_rows *packed;
    const float *x;
    int64_t x_row;
} pack_job;

static void pack_rows(void *argument, int64_t begin, int64_t end, void *scratch) {
    const pack_job *j = argument;
    (void)scratch;
    for (int64_t row = begin; row < end; row++) pack_row(j->packed, row, j->x + row * j->x_row);
}

static void pack(rtp_pool *pool, const packed_rows *packed, const float *x, int64_t x_row) {
    pack_job j = {packed, x, x_row};
    rtp_pool_run(pool, pack_rows, &j, packed->rows, grain_for(4 * packed->groups * GROUP));
}

static void linear(rtp_pool *pool, const packed_rows *a, const rtp_cpu_linear *layer, float *out) {
    linear_job j = {.a = a, .layer = layer, .out = out, .out_row = layer->n};
    KERNEL(linear)(pool, &j);
}

/* x = norm(x + y). */
static int add_norm(rtp_cpu_device *device, float *x, int64_t x_row, float *y, int64_t tokens, int64_t width,
                    const rtp_cpu_norm_weights *norm) {
    int kind = norm->bias ? RTP_CPU_LAYER_NORM : RTP_CPU_RMS_NORM;
    return device->kernels->norm(device, kind, RTP_CPU_F32, x, y, y, x, RTP_CPU_F32, norm->weight, norm->bias,
                                 norm->eps, tokens, width, x_row, width, width, x_row);
}

static int is_linear(const rtp_cpu_linear *layer, int64_t n, int64_t k) {
    return layer->w && layer->n == n && layer->k == k && n >= 0 && k >= GROUP && k % GROUP == 0;
}

int KERNEL(encoder_layer)(rtp_cpu_device *device, const rtp_cpu_encoder_weights *weights, float *x, void *work,
                          const int32_t *lengths, const int32_t *starts, int64_t requests, int64_t x_row) {
    const int64_t hidden = weights->o.n, inner = weights->up.n, heads = weights->heads, dim = weights->head_dim;
    const int64_t q_width = heads * dim, k_width = weights->kv_heads * dim, qkv_width = q_width + 2 * k_width;
    if (!is_linear(&weights->qkv, qkv_width, hidden) || !is_linear(&weights->o, hidden, q_width) ||
        !is_linear(&weights->up, inner, hidden) || !is_linear(&weights->down, hidden, inner) || requests < 0 ||
        weights->activation < RTP_CPU_GELU || weights->activation > RTP_CPU_TANH)
        return RTP_CPU_BAD_ARGUMENT;
    rtp_pool *pool = device->pool;
    const int64_t tokens = requests ? (int64_t)starts[requests] - starts[0] : 0;
    float *qkv = work, *y = qkv + tokens * qkv_width;
    char *inside = (char *)(y + tokens * max64(q_width, hidden)), *before = inside + packed_bytes(tokens, inner, 0);
    packed_rows h = packed_at(inside, tokens, inner, 0), a = packed_at(before, tokens, hidden, 1);
    packed_rows attended = packed_at(before, tokens, q_width, 1);

    pack(pool, &a, x, x_row);
    linear(pool, &a, &weights->qkv, qkv);
    const float *k = qkv + q_width, *v = k + k_width;
    int status = device->kernels->encoder_attention(device, RTP_CPU_F32, y, qkv, k, v, lengths, starts, requests, heads,
                                                    weights->kv_heads, dim, q_width, qkv_width, qkv_width, qkv_width,
                                                    weights->scale);
    if (status != RTP_CPU_OK) return status;
    pack(pool, &attended, y, q_width);
    linear(pool, &attended, &weights->o, y);
    status = add_norm(device, x, x_row, y, tokens, hidden, &weights->attention_norm);
    if (status != RTP_CPU_OK) return status;
    pack(pool, &a, x, x_row);
    linear_job up = {.a = &a, .layer = &weights->up, .packed = &h, .activation = weights->activation};
    KERNEL(linear)(pool, &up);
    linear(pool, &h, &weights->down, y);
    return add_norm(device, x, x_row, y, tokens, hidden, &weights->ffn_norm);
}
