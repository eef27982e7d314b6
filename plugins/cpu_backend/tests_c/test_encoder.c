/* A whole encoder layer in one call: near what the float kernels give one after the other, within what its int8
   activations leave. */

#include "driver.h"

enum { GROUP = 32, HEAD_DIM = 32 };

typedef struct {
    char *bases[4];
    uint8_t *packed;
    tensor numbers, bias;
    int64_t n, k;
} linear;

static linear linear_random(rtp_cpu_device *device, int64_t n, int64_t k) {
    linear l = {.n = n, .k = k, .numbers = tensor_random(RTP_CPU_F32, n * k), .bias = tensor_random(RTP_CPU_F32, n)};
    rtp_cpu_plain plain = {.payload = bytes_at_odd_place(n * k, &l.bases[0]),
                           .scales = bytes_at_odd_place(n * k / GROUP * 2, &l.bases[1])};
    l.packed = bytes_at_odd_place(rtp_cpu_rows16_bytes(RTP_CPU_Q8_0, n, k), &l.bases[2]);
    require(!rtp_cpu_quantize(device, RTP_CPU_Q8_0, RTP_CPU_F32, &plain, l.numbers.data, n, k, k), "quantize");
    require(!rtp_cpu_dequantize(device, RTP_CPU_Q8_0, RTP_CPU_F32, l.numbers.data, &plain, NULL, n, n, k, k), "numbers");
    require(!rtp_cpu_rows16_pack(device, RTP_CPU_Q8_0, l.packed, &plain, n, k), "pack");
    return l;
}

static void linear_free(linear *l) {
    for (int i = 0; i < 4; i++) free(l->bases[i]);
    tensor_free(&l->numbers), tensor_free(&l->bias);
}

static rtp_cpu_linear linear_view(const linear *l) { return (rtp_cpu_linear){l->packed, l->bias.data, l->n, l->k}; }

static tensor multiplied(rtp_cpu_device *device, const linear *l, const tensor *a, int64_t rows) {
    static const int64_t one[] = {0, 0, 0};
    tensor out = tensor_random(RTP_CPU_F32, rows * l->n);
    require(!rtp_cpu_gemm(device, RTP_CPU_F32, out.data, a->data, RTP_CPU_F32, l->numbers.data, RTP_CPU_F32,
                          l->bias.data, 1, rows, l->n, l->k, l->n, l->k, l->k, 1, one),
            "gemm");
    return out;
}

static void add_norm(rtp_cpu_device *device, tensor *x, const tensor *y, const rtp_cpu_norm_weights *norm,
                     int64_t rows, int64_t width) {
    tensor sum = tensor_random(RTP_CPU_F32, x->count);
    require(!rtp_cpu_norm(device, norm->bias ? RTP_CPU_LAYER_NORM : RTP_CPU_RMS_NORM, RTP_CPU_F32, x->data, sum.data,
                          y->data, x->data, RTP_CPU_F32, norm->weight, norm->bias, norm->eps, rows, width, width, width,
                          width, width),
            "norm");
    tensor_free(&sum);
}

/* The layer over x, one kernel after the other. */
static void in_floats(rtp_cpu_device *device, const rtp_cpu_encoder_weights *w, const linear *parts, tensor *x,
                      const int32_t *lengths, const int32_t *starts, int64_t requests, int64_t tokens) {
    const int64_t hidden = w->o.n, qkv_row = w->qkv.n, k_width = w->kv_heads * HEAD_DIM;
    tensor qkv = multiplied(device, &parts[0], x, tokens), attended = tensor_random(RTP_CPU_F32, tokens * hidden);
    const float *q = qkv.data;
    require(!rtp_cpu_encoder_attention(device, RTP_CPU_F32, attended.data, q, q + hidden, q + hidden + k_width, lengths,
                                       starts, requests, w->heads, w->kv_heads, HEAD_DIM, hidden, qkv_row, qkv_row,
                                       qkv_row, w->scale),
            "encoder_attention");
    tensor o = multiplied(device, &parts[1], &attended, tokens);
    add_norm(device, x, &o, &w->attention_norm, tokens, hidden);
    tensor up = multiplied(device, &parts[2], x, tokens);
    require(!rtp_cpu_activation(device, w->activation, RTP_CPU_F32, up.data, up.data, tokens, w->up.n, w->up.n,
                                w->up.n),
            "activation");
    tensor down = multiplied(device, &parts[3], &up, tokens);
    add_norm(device, x, &down, &w->ffn_norm, tokens, hidden);
    tensor_free(&qkv), tensor_free(&attended), tensor_free(&o), tensor_free(&up), tensor_free(&down);
}

static void layer(rtp_cpu_device *device, const int32_t *lengths, int64_t requests, int64_t heads, int64_t kv_heads,
                  int64_t inner, int activation, int has_bias) {
    const int64_t hidden = heads * HEAD_DIM, gap = 3;
    int32_t *starts = int32s(requests + 1);
    starts[0] = 2;
    for (int64_t r = 0; r < requests; r++) starts[r + 1] = starts[r] + lengths[r];
    const int64_t tokens = starts[requests] - starts[0], x_row = hidden + gap;
    linear parts[] = {linear_random(device, hidden + 2 * kv_heads * HEAD_DIM, hidden),
                      linear_random(device, hidden, hidden), linear_random(device, inner, hidden),
                      linear_random(device, hidden, inner)};
    tensor norms = tensor_random(RTP_CPU_F32, 2 * hidden);
    const float *norm = norms.data;
    rtp_cpu_norm_weights norm_weights = {norm, has_bias ? norm + hidden : NULL, 1e-5f};
    rtp_cpu_encoder_weights w = {.qkv = linear_view(&parts[0]), .o = linear_view(&parts[1]),
                                 .up = linear_view(&parts[2]), .down = linear_view(&parts[3]),
                                 .attention_norm = norm_weights, .ffn_norm = norm_weights, .heads = heads,
                                 .kv_heads = kv_heads, .head_dim = HEAD_DIM, .activation = activation,
                                 .scale = 0.003f}; /* flat: a sharp softmax tips over with a last bit */
    tensor x = tensor_random(RTP_CPU_F32, tokens ? tokens * x_row - gap : 0);
    tensor expected = tensor_random(RTP_CPU_F32, tokens * hidden);
    if (tokens) memcpy((float *)x.data + (tokens - 1) * x_row + hidden / 2, &(float){200}, 4); /* far from the others */
    for (int64_t t = 0; t < tokens; t++)
        memcpy((float *)expected.data + t * hidden, (float *)x.data + t * x_row, (size_t)hidden * 4);
    in_floats(device, &w, parts, &expected, lengths, starts, requests, tokens);
    const int64_t bytes = rtp_cpu_encoder_layer_bytes(&w, tokens);
    void *work = aligned_alloc(64, (size_t)(bytes + 64) / 64 * 64);
    require(work != NULL, "memory");
    require(!rtp_cpu_encoder_layer(device, &w, x.data, work, lengths, starts, requests, x_row), "encoder_layer");
    tensor_read(&x), tensor_read(&expected);
    double error = 0, size = 0;
    for (int64_t i = 0; i < expected.count; i++) {
        double difference = (double)x.values[i / hidden * x_row + i % hidden] - expected.values[i];
        error += difference * difference, size += (double)expected.values[i] * expected.values[i];
    }
    require(sqrt(error) <= 0.03 * sqrt(size), "encoder_layer is near the float kernels");
    w.up.k--;
    require(rtp_cpu_encoder_layer(device, &w, x.data, work, lengths, starts, requests, x_row) == RTP_CPU_BAD_ARGUMENT,
            "sizes that do not fit each other");
    w.up.k++, starts[requests]++;
    require(rtp_cpu_encoder_layer(device, &w, x.data, work, lengths, starts, 0, x_row) == RTP_CPU_OK, "no request");
    free(starts), free(work);
    for (int i = 0; i < 4; i++) linear_free(&parts[i]);
    tensor_free(&norms), tensor_free(&x), tensor_free(&expected);
}

void test_encoder(rtp_cpu_device *device) {
    static const int32_t lengths[] = {0, 1, 5, 97};
    layer(device, lengths + 1, 2, 1, 1, 96, RTP_CPU_GELU, 1);
    layer(device, lengths, 1, 1, 1, 32, RTP_CPU_TANH, 0);
    layer(device, lengths, is_brief ? 3 : 4, 3, 1, 160, RTP_CPU_SILU, 0); /* a half panel of outputs */
    for (int kind = RTP_CPU_GELU; kind <= (is_brief ? RTP_CPU_GELU : RTP_CPU_TANH); kind++)
        layer(device, lengths, 3, 2, 2, 64, kind, 1);
}
