/* One token a row of logits: the most probable one, or one drawn by core's uniform after its filters. The definition is
   host_sampling.sample of rtp-core; the sum of all weights has f32 terms there too, everything else is in doubles.

   A histogram of how far each logit lies below the largest finds the head of the row without sorting all of it: no
   filter and no draw looks past a head that holds them. */

#include <math.h>
#include <stdlib.h>

#include "tile.h"
#include "vmath.h"

enum { BINS = 512, PER_UNIT = 32 /* bins of an e-fold */, FIRST_HEAD = 256, GROWTH = 8 };

typedef struct {
    float logit;
    int32_t id;
} candidate;

typedef struct {
    float *values;
    int32_t *indices;
    const float *x;
    const float *temperature, *top_p, *min_p;
    const int64_t *top_k;
    const double *uniforms;
    int64_t cols, x_row;
} job;

typedef struct {
    int32_t counts[BINS];
    candidate *candidates; /* [cols] */
    double *cdf; /* [cols] */
} work;

/* The first largest of a row, tile by tile, and then its place in one. NaN: the row has NaN or +inf. */
static float argmax_row(const float *x, int64_t cols, int32_t *index) {
    vf bad = vf_zero(), one = vf_set1(1), infinity = vf_set1(INFINITY);
    float top = -INFINITY;
    int64_t place = 0;
    for (int64_t i = 0; i < cols; i += TILE) {
        const float *y = x + i;
        const int64_t width = min64(TILE, cols - i);
        FOR_VECTORS (width) bad = vf_max(bad, vf_if_less(LOAD(y), infinity, vf_zero(), one));
        const float before = top;
        top = tile_max(y, width, top);
        if (top > before) place = i;
    }
    while (place < cols - 1 && x[place] != top) place++;
    *index = (int32_t)place;
    return vf_sum(bad) > 0 ? NAN : top;
}

/* How many logits lie in each bin, those beyond the last left out, and the sum of all weights. */
static double count_bins(const float *x, int64_t cols, float top, float temperature, int32_t *counts) {
    double total = 0;
    memset(counts, 0, BINS * sizeof *counts);
    for (int64_t i = 0; i < cols; i += TILE) {
        float below[TILE], weights[TILE];
        int64_t width = min64(TILE, cols - i);
        const float *y = x + i;
        vf sum = vf_zero();
        memset(weights, 0, sizeof weights);
        FOR_VECTORS (width) STORE(below, vf_div(vf_sub(vf_set1(top), LOAD(y)), vf_set1(temperature)));
        FOR_VECTORS (width) STORE(weights, vf_exp(vf_sub(vf_zero(), LOAD(below))));
        for (int64_t c = 0; c < TILE; c += VF) sum = vf_add(sum, vf_load(weights + c));
        total += vf_sum(sum);
        for (int64_t c = 0; c < width; c++)
            if (below[c] < (float)BINS / PER_UNIT) counts[(int)(below[c] * PER_UNIT)]++;
    }
    return total;
}

static int descending(const void *a, const void *b) {
    const candidate *p = a, *q = b;
    if (p->logit != q->logit) return p->logit < q->logit ? 1 : -1;
    return p->id < q->id ? -1 : p->id > q->id;
}

/* The tokens of the first bins that hold `size` of them or more, best first. Returns how many. */
static int64_t gather_head(const float *x, int64_t cols, float top, float temperature, int64_t size, const work *w) {
    int64_t held = 0, count = 0;
    int last = 0;
    while (last < BINS && (held += w->counts[last]) < size) last++;
    /* A little lower than the last bin's end, which was rounded: a few more do no harm. */
    float lowest = held < size ? -INFINITY : top - temperature * ((float)(last + 1) / PER_UNIT * 1.00001f + 1e-5f);
    for (int64_t i = 0; i < cols; i++)
        if (x[i] >= lowest) w->candidates[count++] = (candidate){x[i], (int32_t)i};
    qsort(w->candidates, (size_t)count, sizeof(candidate), descending);
    return count;
}

/* How many of cdf[0..n) are less than `value`, or no larger than it. */
static int64_t search(const double *cdf, int64_t n, double value, int or_equal) {
    int64_t low = 0, high = n;
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (cdf[middle] < value || (or_equal && cdf[middle] == value)) low = middle + 1;
        else high = middle;
    }
    return low;
}

static int32_t draw(const job *j, int64_t row, float top, work *w) {
    const float *x = j->x + row * j->x_row;
    const double temperature = j->temperature[row], top_p = j->top_p[row], min_p = j->min_p[row];
    const int64_t limit = j->top_k[row] > 0 ? min64(j->top_k[row], j->cols) : j->cols;
    const double all = count_bins(x, j->cols, top, (float)temperature, w->counts);
    for (int64_t asked = limit < j->cols ? limit : min64(limit, FIRST_HEAD);; asked = min64(limit, asked * GROWTH)) {
        int64_t size = min64(limit, gather_head(x, j->cols, top, (float)temperature, asked, w)), kept = 0;
        double sum = 0;
        for (int64_t i = 0; i < size; i++) {
            double weight = exp(((double)w->candidates[i].logit - top) / temperature);
            kept += weight >= min_p;
            w->cdf[i] = sum += weight;
        }
        const double total = size == limit ? sum : all;
        if (top_p < 1) kept = min64(kept, search(w->cdf, size, top_p * total, 0) + 1);
        /* A head that no filter cuts goes on past what is seen, unless it is all there is. */
        int is_whole = kept < size || size == limit;
        if (is_whole || (top_p >= 1 && min_p == 0)) {
            double mass = is_whole ? w->cdf[kept - 1] : total;
            int64_t index = search(w->cdf, size, j->uniforms[row] * mass, 1);
            if (index < size || size == limit) return w->candidates[min64(index, kept - 1)].id;
        }
    }
}

static void sample_rows(void *argument, int64_t begin, int64_t end, void *scratch) {
    const job *j = argument;
    work *w = scratch;
    w->cdf = (double *)(w + 1);
    w->candidates = (candidate *)(w->cdf + j->cols);
    for (int64_t row = begin; row < end; row++) {
        float top = argmax_row(j->x + row * j->x_row, j->cols, j->indices + row);
        j->values[row] = top;
        if (j->temperature[row] > 0 && isfinite(top)) j->indices[row] = draw(j, row, top, w);
    }
}

int KERNEL(sample)(rtp_cpu_device *device, float *values, int32_t *indices, const float *x, const float *temperature,
                   const int64_t *top_k, const float *top_p, const float *min_p, const double *uniforms, int64_t rows,
                   int64_t cols, int64_t x_row) {
    if (cols < 1 || cols > INT32_MAX) return RTP_CPU_BAD_ARGUMENT;
    int64_t bytes = (int64_t)sizeof(work) + cols * (int64_t)(sizeof(double) + sizeof(candidate));
    int status = rtp_pool_reserve(device->pool, 0, NULL, bytes);
    if (status != RTP_CPU_OK) return status;
    if (rtp_pool_rehearses(device->pool)) { /* which token it is makes no difference: one that is there */
        for (int64_t i = 0; i < rows; i++) values[i] = 0, indices[i] = 0;
        return RTP_CPU_OK;
    }
    job j = {values, indices, x, temperature, top_p, min_p, top_k, uniforms, cols, x_row};
    rtp_pool_run(device->pool, sample_rows, &j, rows, grain_for(cols));
    return RTP_CPU_OK;
}
