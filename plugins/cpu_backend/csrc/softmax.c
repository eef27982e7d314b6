/* Softmax with scale, soft cap and mask. Scores are computed anew in each of three passes, so no row is kept. */

#include <math.h>

#include "tile.h"
#include "vmath.h"

typedef struct {
    int dtype;
    void *out;
    const void *x;
    const float *mask;
    float scale, softcap;
    int64_t mask_rows, cols, out_row, x_row, mask_row;
} job;

/* Scores of columns [col, col + width) of a row, into tile. */
static void scores(const job *j, int64_t row, int64_t col, int64_t width, float *tile) {
    float tx[TILE];
    const float *x = tile_in(j->dtype, at(j->x, j->dtype, row * j->x_row + col), width, tx);
    vf scale = vf_set1(j->scale), cap = vf_set1(j->softcap);
    FOR_VECTORS (width) {
        vf y = vf_mul(LOAD(x), scale);
        if (j->softcap != 0) y = vf_mul(cap, vf_tanh(vf_div(y, cap)));
        STORE(tile, y);
    }
    if (j->mask) {
        const float *mask = j->mask + row % j->mask_rows * j->mask_row + col;
        FOR_VECTORS (width) STORE(tile, vf_add(LOAD(tile), LOAD(mask)));
    }
}

static void softmax_rows(void *argument, int64_t begin, int64_t end, void *scratch) {
    const job *j = argument;
    (void)scratch;
    for (int64_t row = begin; row < end; row++) {
        float tile[TILE], top = -INFINITY, total = 0;
        for (int64_t col = 0; col < j->cols; col += TILE) {
            int64_t width = min64(TILE, j->cols - col);
            scores(j, row, col, width, tile);
            top = tile_max(tile, width, top);
        }
        if (top == -INFINITY) top = 0; /* nothing is visible: exp gives zeros */
        for (int64_t col = 0; col < j->cols; col += TILE) {
            int64_t width = min64(TILE, j->cols - col);
            scores(j, row, col, width, tile);
            FOR_VECTORS (width) STORE(tile, vf_exp(vf_sub(LOAD(tile), vf_set1(top))));
            vf part = vf_zero();
            FOR_VECTORS (width) part = vf_add(part, LOAD(tile));
            total += vf_sum(part);
        }
        float inverse = total == 0 ? 1 : 1 / total;
        for (int64_t col = 0; col < j->cols; col += TILE) {
            int64_t width = min64(TILE, j->cols - col);
            scores(j, row, col, width, tile);
            FOR_VECTORS (width) STORE(tile, vf_mul(vf_exp(vf_sub(LOAD(tile), vf_set1(top))), vf_set1(inverse)));
            store_f32(j->dtype, at_mut(j->out, j->dtype, row * j->out_row + col), width, tile);
        }
    }
}

int KERNEL(softmax)(rtp_cpu_device *device, int dtype, void *out, const void *x, const float *mask, int64_t mask_rows,
                    float scale, float softcap, int64_t rows, int64_t cols, int64_t out_row, int64_t x_row,
                    int64_t mask_row) {
    if (!is_dtype(dtype) || (mask && mask_rows < 1 && rows > 0)) return RTP_CPU_BAD_ARGUMENT;
    job j = {dtype, out, x, mask, scale, softcap, mask_rows, cols, out_row, x_row, mask_row};
    rtp_pool_run(device->pool, softmax_rows, &j, rows, grain_for(12 * cols));
    return RTP_CPU_OK;
}
