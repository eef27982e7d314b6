/* Rows picked, ranked and moved: gather_rows, top_k and the strided copy. */

#include "tile.h"

/* ---- gather_rows ---- */

typedef struct {
    int out_dtype, table_dtype;
    void *out;
    const void *table;
    const int32_t *ids;
    int64_t cols, out_row, table_row;
} gather_job;

static void gather(void *argument, int64_t begin, int64_t end, void *scratch) {
    const gather_job *j = argument;
    (void)scratch;
    for (int64_t t = begin; t < end; t++) {
        const void *src = at(j->table, j->table_dtype, j->ids[t] * j->table_row);
        void *dst = at_mut(j->out, j->out_dtype, t * j->out_row);
        if (j->out_dtype == j->table_dtype) {
            memcpy(dst, src, (size_t)(j->cols * dtype_bytes(j->out_dtype)));
            continue;
        }
        for (int64_t col = 0; col < j->cols; col += TILE) {
            float tile[TILE];
            int64_t width = min64(TILE, j->cols - col);
            const float *x = tile_in(j->table_dtype, at(src, j->table_dtype, col), width, tile);
            store_f32(j->out_dtype, at_mut(dst, j->out_dtype, col), width, x);
        }
    }
}

int KERNEL(gather_rows)(rtp_cpu_device *device, int out_dtype, void *out, int table_dtype, const void *table,
                        const int32_t *ids, int64_t count, int64_t table_rows, int64_t cols, int64_t out_row,
                        int64_t table_row) {
    if (!is_dtype(out_dtype) || !is_dtype(table_dtype)) return RTP_CPU_BAD_ARGUMENT;
    if (count && !rows_are_valid(ids, count, table_rows)) return RTP_CPU_OUT_OF_RANGE;
    gather_job j = {out_dtype, table_dtype, out, table, ids, cols, out_row, table_row};
    rtp_pool_run(device->pool, gather, &j, count, grain_for(cols));
    return RTP_CPU_OK;
}

/* ---- top_k ---- */

typedef struct {
    int dtype;
    void *values;
    int32_t *indices;
    const void *x;
    int64_t cols, k, x_row;
} top_job;

/* Whether a comes before b; NaN comes last. */
INLINE int is_ahead(float a, float b) { return a > b || (b != b && a == a); }

/* The best k so far stay sorted: most elements lose to the last of them at once. */
static void top_rows(void *argument, int64_t begin, int64_t end, void *scratch) {
    const top_job *j = argument;
    float *best = scratch;
    int64_t itemsize = dtype_bytes(j->dtype);
    for (int64_t row = begin; row < end; row++) {
        const void *x = at(j->x, j->dtype, row * j->x_row);
        int32_t *ids = j->indices + row * j->k;
        int64_t count = 0;
        for (int64_t col = 0; col < j->cols; col += TILE) {
            float tile[TILE];
            int64_t width = min64(TILE, j->cols - col);
            const float *y = tile_in(j->dtype, at(x, j->dtype, col), width, tile);
            for (int64_t i = 0; i < width; i++) {
                if (count == j->k && !is_ahead(y[i], best[count - 1])) continue;
                int64_t place = count < j->k ? count++ : count - 1;
                for (; place > 0 && is_ahead(y[i], best[place - 1]); place--) {
                    best[place] = best[place - 1];
                    ids[place] = ids[place - 1];
                }
                best[place] = y[i];
                ids[place] = (int32_t)(col + i);
            }
        }
        char *values = at_mut(j->values, j->dtype, row * j->k);
        for (int64_t i = 0; i < j->k; i++) memcpy(values + i * itemsize, at(x, j->dtype, ids[i]), (size_t)itemsize);
    }
}

int KERNEL(top_k)(rtp_cpu_device *device, int dtype, void *values, int32_t *indices, const void *x, int64_t rows,
                  int64_t cols, int64_t k, int64_t x_row) {
    if (!is_dtype(dtype) || k < 0 || k > cols || cols > INT32_MAX) return RTP_CPU_BAD_ARGUMENT;
    if (k == 0) return RTP_CPU_OK;
    int status = rtp_pool_reserve(device->pool, 0, NULL, k * 4);
    if (status != RTP_CPU_OK) return status;
    if (rtp_pool_rehearses(device->pool)) { /* later ops go by the indices: they get some that are there */
        for (int64_t i = 0; i < rows * k; i++) indices[i] = (int32_t)(i % k);
        return RTP_CPU_OK;
    }
    top_job j = {dtype, values, indices, x, cols, k, x_row};
    rtp_pool_run(device->pool, top_rows, &j, rows, grain_for(2 * cols));
    return RTP_CPU_OK;
}

/* ---- strided copy ---- */

enum { MAX_RANK = 6, RUN = 8192 }; /* elements of the last axis moved at a time */

typedef struct {
    int rank;
    int64_t itemsize, shape[MAX_RANK], dst_strides[MAX_RANK], src_strides[MAX_RANK], runs;
    char *dst;
    const char *src;
} copy_job;

INLINE void copy_run(char *dst, const char *src, int64_t n, const int64_t itemsize, int64_t dst_step,
                     int64_t src_step) {
    if (dst_step == 1 && src_step == 1) {
        memcpy(dst, src, (size_t)(n * itemsize));
        return;
    }
    for (int64_t i = 0; i < n; i++)
        memcpy(dst + i * dst_step * itemsize, src + i * src_step * itemsize, (size_t)itemsize);
}

static void copy_runs(void *argument, int64_t begin, int64_t end, void *scratch) {
    const copy_job *j = argument;
    int last = j->rank - 1;
    (void)scratch;
    for (int64_t u = begin; u < end; u++) {
        int64_t first = u % j->runs * RUN, n = min64(RUN, j->shape[last] - first), rest = u / j->runs;
        int64_t dst_at = first * j->dst_strides[last], src_at = first * j->src_strides[last];
        for (int axis = last - 1; axis >= 0; axis--) {
            int64_t i = rest % j->shape[axis];
            rest /= j->shape[axis];
            dst_at += i * j->dst_strides[axis];
            src_at += i * j->src_strides[axis];
        }
        char *dst = j->dst + dst_at * j->itemsize;
        const char *src = j->src + src_at * j->itemsize;
        switch (j->itemsize) {
            case 1: copy_run(dst, src, n, 1, j->dst_strides[last], j->src_strides[last]); break;
            case 2: copy_run(dst, src, n, 2, j->dst_strides[last], j->src_strides[last]); break;
            case 4: copy_run(dst, src, n, 4, j->dst_strides[last], j->src_strides[last]); break;
            default: copy_run(dst, src, n, 8, j->dst_strides[last], j->src_strides[last]); break;
        }
    }
}

int KERNEL(copy)(rtp_cpu_device *device, int itemsize, int rank, const int64_t *shape, void *dst,
                 const int64_t *dst_strides, const void *src, const int64_t *src_strides) {
    if (rank < 1 || rank > MAX_RANK || (itemsize != 1 && itemsize != 2 && itemsize != 4 && itemsize != 8))
        return RTP_CPU_BAD_ARGUMENT;
    copy_job j = {.itemsize = itemsize, .dst = dst, .src = src};
    int64_t total = 1;
    for (int axis = 0; axis < rank; axis++) {
        int64_t n = shape[axis];
        if (n == 1 && rank > 1 && !(axis == rank - 1 && j.rank == 0)) continue;
        int before = j.rank - 1; /* an axis that continues the one before becomes one with it */
        if (j.rank && j.dst_strides[before] == n * dst_strides[axis] &&
            j.src_strides[before] == n * src_strides[axis]) {
            j.shape[before] *= n;
            j.dst_strides[before] = dst_strides[axis];
            j.src_strides[before] = src_strides[axis];
        } else {
            j.shape[j.rank] = n;
            j.dst_strides[j.rank] = dst_strides[axis];
            j.src_strides[j.rank++] = src_strides[axis];
        }
        total *= n;
    }
    if (total == 0) return RTP_CPU_OK;
    int64_t length = j.shape[j.rank - 1];
    j.runs = div_up(length, RUN);
    rtp_pool_run(device->pool, copy_runs, &j, total / length * j.runs, grain_for(min64(RUN, length)));
    return RTP_CPU_OK;
}
