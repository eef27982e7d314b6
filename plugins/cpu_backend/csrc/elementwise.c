/* add, mul, activations and casts: rows cut into tiles, tiles spread over the threads. */

#include "tile.h"
#include "vmath.h"

typedef struct {
    int kind, out_dtype, dtype;
    void *out;
    const void *a, *b;
    int64_t cols, tiles, out_row, a_row, b_row, b_column;
} job;

/* What tile number u covers: its row, first column and width. */
#define TILE_OF(j, u) \
    int64_t row = (u) / (j)->tiles, col = (u) % (j)->tiles * TILE, width = min64(TILE, (j)->cols - col)

static int run(rtp_cpu_device *device, rtp_task task, job *j, int64_t rows, int64_t cost) {
    j->tiles = div_up(j->cols, TILE);
    rtp_pool_run(device->pool, task, j, rows * j->tiles, grain_for(cost * min64(TILE, j->cols)));
    return RTP_CPU_OK;
}

static void binary_tiles(void *argument, int64_t begin, int64_t end, void *scratch) {
    const job *j = argument;
    (void)scratch;
    for (int64_t u = begin; u < end; u++) {
        TILE_OF(j, u);
        float ta[TILE], tb[TILE], to[TILE];
        void *dst = at_mut(j->out, j->out_dtype, row * j->out_row + col);
        const float *a = tile_in(j->dtype, at(j->a, j->dtype, row * j->a_row + col), width, ta);
        const float *b = tb;
        if (j->b_column) {
            b = tile_in(j->dtype, at(j->b, j->dtype, row * j->b_row + col), width, tb);
        } else {
            load_f32(j->dtype, at(j->b, j->dtype, row * j->b_row), 1, tb);
            float value = tb[0];
            for (int64_t i = 0; i < width; i++) tb[i] = value;
        }
        float *out = tile_out(j->out_dtype, dst, to);
        FOR_VECTORS (width) STORE(out, j->kind == RTP_CPU_ADD ? vf_add(LOAD(a), LOAD(b)) : vf_mul(LOAD(a), LOAD(b)));
        tile_done(j->out_dtype, dst, width, out);
    }
}

int KERNEL(binary)(rtp_cpu_device *device, int op, int dtype, void *out, const void *a, const void *b, int64_t rows,
                   int64_t cols, int64_t out_row, int64_t a_row, int64_t b_row, int64_t b_column) {
    if (!is_dtype(dtype) || (op != RTP_CPU_ADD && op != RTP_CPU_MUL) || b_column < 0 || b_column > 1)
        return RTP_CPU_BAD_ARGUMENT;
    job j = {op, dtype, dtype, out, a, b, cols, 0, out_row, a_row, b_row, b_column};
    return run(device, binary_tiles, &j, rows, 1);
}

INLINE void activate(const job *j, const int kind, int64_t begin, int64_t end) {
    for (int64_t u = begin; u < end; u++) {
        TILE_OF(j, u);
        float ta[TILE], tb[TILE], to[TILE];
        void *dst = at_mut(j->out, j->dtype, row * j->out_row + col);
        const float *x = tile_in(j->dtype, at(j->a, j->dtype, row * j->a_row + col), width, ta);
        float *out = tile_out(j->dtype, dst, to);
        if (j->b) {
            const float *up = tile_in(j->dtype, at(j->b, j->dtype, row * j->b_row + col), width, tb);
            FOR_VECTORS (width) STORE(out, vf_mul(vf_activate(kind, LOAD(x)), LOAD(up)));
        } else {
            FOR_VECTORS (width) STORE(out, vf_activate(kind, LOAD(x)));
        }
        tile_done(j->dtype, dst, width, out);
    }
}

static void activation_tiles(void *argument, int64_t begin, int64_t end, void *scratch) {
    const job *j = argument;
    (void)scratch;
    switch (j->kind) { /* one loop per kind, so that none decides anything inside */
        case RTP_CPU_GELU: activate(j, RTP_CPU_GELU, begin, end); break;
        case RTP_CPU_GELU_TANH: activate(j, RTP_CPU_GELU_TANH, begin, end); break;
        case RTP_CPU_RELU: activate(j, RTP_CPU_RELU, begin, end); break;
        case RTP_CPU_SIGMOID: activate(j, RTP_CPU_SIGMOID, begin, end); break;
        case RTP_CPU_SILU: activate(j, RTP_CPU_SILU, begin, end); break;
        default: activate(j, RTP_CPU_TANH, begin, end); break;
    }
}

int KERNEL(activation)(rtp_cpu_device *device, int kind, int dtype, void *out, const void *x, int64_t rows,
                       int64_t cols, int64_t out_row, int64_t x_row) {
    if (!is_dtype(dtype) || kind < RTP_CPU_GELU || kind > RTP_CPU_TANH) return RTP_CPU_BAD_ARGUMENT;
    job j = {kind, dtype, dtype, out, x, NULL, cols, 0, out_row, x_row, 0, 1};
    return run(device, activation_tiles, &j, rows, 4);
}

int KERNEL(gated_activation)(rtp_cpu_device *device, int kind, int dtype, void *out, const void *gate, const void *up,
                             int64_t rows, int64_t cols, int64_t out_row, int64_t gate_row, int64_t up_row) {
    if (!is_dtype(dtype) || kind < RTP_CPU_GELU || kind > RTP_CPU_TANH || !up) return RTP_CPU_BAD_ARGUMENT;
    job j = {kind, dtype, dtype, out, gate, up, cols, 0, out_row, gate_row, up_row, 1};
    return run(device, activation_tiles, &j, rows, 4);
}

static void cast_tiles(void *argument, int64_t begin, int64_t end, void *scratch) {
    const job *j = argument;
    (void)scratch;
    for (int64_t u = begin; u < end; u++) {
        TILE_OF(j, u);
        float tile[TILE];
        const float *x = tile_in(j->dtype, at(j->a, j->dtype, row * j->a_row + col), width, tile);
        store_f32(j->out_dtype, at_mut(j->out, j->out_dtype, row * j->out_row + col), width, x);
    }
}

int KERNEL(cast)(rtp_cpu_device *device, int out_dtype, void *out, int x_dtype, const void *x, int64_t rows,
                 int64_t cols, int64_t out_row, int64_t x_row) {
    if (!is_dtype(out_dtype) || !is_dtype(x_dtype)) return RTP_CPU_BAD_ARGUMENT;
    job j = {0, out_dtype, x_dtype, out, x, NULL, cols, 0, out_row, x_row, 0, 1};
    return run(device, cast_tiles, &j, rows, 1);
}
