/* Rotary position embedding, half-split: pairs (i, i + half) of a head turn by the angle of their position.
   Source: RoPE, arXiv:2104.09864, in the form of Hugging Face's llama. */

#include "tile.h"

typedef struct {
    int dtype;
    void *out;
    const void *x;
    const float *cos, *sin;
    const int32_t *positions;
    int64_t heads, head_dim, half, out_token, out_head, x_token, x_head;
} job;

static void rotate(const job *j, void *out, const void *x, const float *cosine, const float *sine) {
    for (int64_t col = 0; col < j->half; col += TILE) {
        int64_t width = min64(TILE, j->half - col);
        float t0[TILE], t1[TILE], o0[TILE], o1[TILE];
        const float *first = tile_in(j->dtype, at(x, j->dtype, col), width, t0);
        const float *second = tile_in(j->dtype, at(x, j->dtype, j->half + col), width, t1);
        void *d0 = at_mut(out, j->dtype, col), *d1 = at_mut(out, j->dtype, j->half + col);
        float *y0 = tile_out(j->dtype, d0, o0), *y1 = tile_out(j->dtype, d1, o1);
        FOR_VECTORS (width) {
            vf a = LOAD(first), b = LOAD(second), c = LOAD(cosine + col), s = LOAD(sine + col);
            STORE(y0, vf_sub(vf_mul(a, c), vf_mul(b, s)));
            STORE(y1, vf_fma(b, c, vf_mul(a, s)));
        }
        tile_done(j->dtype, d0, width, y0);
        tile_done(j->dtype, d1, width, y1);
    }
    int64_t rest = j->head_dim - 2 * j->half;
    if (rest && out != x)
        memcpy(at_mut(out, j->dtype, 2 * j->half), at(x, j->dtype, 2 * j->half),
               (size_t)(rest * dtype_bytes(j->dtype)));
}

static void rope_tokens(void *argument, int64_t begin, int64_t end, void *scratch) {
    const job *j = argument;
    (void)scratch;
    for (int64_t t = begin; t < end; t++) {
        int64_t angles = j->positions[t] * j->half;
        for (int64_t h = 0; h < j->heads; h++)
            rotate(j, at_mut(j->out, j->dtype, t * j->out_token + h * j->out_head),
                   at(j->x, j->dtype, t * j->x_token + h * j->x_head), j->cos + angles, j->sin + angles);
    }
}

int KERNEL(rope)(rtp_cpu_device *device, int dtype, void *out, const void *x, const float *cos, const float *sin,
                 const int32_t *positions, int64_t tokens, int64_t heads, int64_t head_dim, int64_t half,
                 int64_t max_positions, int64_t out_token, int64_t out_head, int64_t x_token, int64_t x_head) {
    if (!is_dtype(dtype) || half < 0 || 2 * half > head_dim) return RTP_CPU_BAD_ARGUMENT;
    for (int64_t t = 0; t < tokens; t++)
        if (positions[t] < 0 || positions[t] >= max_positions) return RTP_CPU_OUT_OF_RANGE;
    job j = {dtype, out, x, cos, sin, positions, heads, head_dim, half, out_token, out_head, x_token, x_head};
    rtp_pool_run(device->pool, rope_tokens, &j, tokens, grain_for(heads * head_dim));
    return RTP_CPU_OK;
}
