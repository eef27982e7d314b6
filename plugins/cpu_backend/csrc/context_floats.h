/* Attention of one tile of queries with both products in f32. */

#ifndef RTP_CPU_CONTEXT_FLOATS_H
#define RTP_CPU_CONTEXT_FLOATS_H

#include "context_job.h"

typedef struct {
    float *q; /* [D, rows], columns are queries */
    float *keys; /* [RUN, D] */
    float *values; /* [RUN, padded D] */
    float *scores; /* [RUN, rows] */
    float *sums; /* [rows, padded D] */
    float *top, *total, *keep; /* [rows]: the largest score so far, the sum of 2^(score - top), what sums shrink by */
    float *seen; /* [rows]: tokens of the context that a query sees */
} floats;

static int64_t floats_scratch(const job *j) {
    int64_t dim = j->kv.head_dim, padded = j->padded_dim;
    return 4 * (j->max_rows * (dim + RUN + padded + 4) + RUN * (dim + padded));
}

static floats lay_out_floats(const job *j, void *scratch) {
    int64_t dim = j->kv.head_dim, rows = j->max_rows;
    floats w;
    w.q = scratch;
    w.keys = w.q + rows * dim;
    w.values = w.keys + dim * RUN;
    w.scores = w.values + RUN * j->padded_dim;
    w.sums = w.scores + rows * RUN;
    w.top = w.sums + rows * j->padded_dim;
    w.total = w.top + rows;
    w.keep = w.total + rows;
    w.seen = w.keep + rows;
    return w;
}

/* c[rows, cols] (+)= a[rows, k] b[k, cols], cols a multiple of NR. */
static void multiply(int64_t rows, int64_t cols, int64_t k, const float *a, int64_t a_row, int64_t a_col,
                     const float *b, int64_t b_row, float *c, int64_t c_row, int add) {
    for (int64_t col = 0; col < cols; col += NR)
        for (int64_t m = 0; m < rows; m += MR)
            gemm_tile((int)min64(MR, rows - m), k, a + m * a_row, a_row, a_col, b + col, b_row, c + m * c_row + col,
                      c_row, add);
}

static void load_run(const job *j, const item *it, int64_t t, int64_t n, const floats *w) {
    const int64_t dim = j->kv.head_dim;
    const void *keys[RUN], *values[RUN];
    find_run(j, it, t, n, keys, values);
    for (int64_t i = 0; i < n; i++) {
        load_f32(j->kv.dtype, keys[i], dim, w->keys + i * dim);
        load_f32(j->kv.dtype, values[i], dim, w->values + i * j->padded_dim);
    }
}

/* Scores [n, VF queries from `row`] of tokens t.. become 2^(score - top). */
static void soften(const job *j, const floats *w, int64_t row, int64_t t, int64_t n, int is_cut) {
    const vf lowest = vf_set1(-INFINITY), seen = vf_load(w->seen + row);
    float *scores = w->scores + row;
    const int64_t step = j->max_rows;
    vf before = vf_load(w->top + row), top = before, total = vf_zero();
    for (int64_t i = 0; i < n; i++) {
        vf s = vf_load(scores + i * step);
        if (is_cut) {
            s = vf_if_less(vf_set1((float)(t + i)), seen, s, lowest);
            vf_store(scores + i * step, s);
        }
        top = vf_max(s, top);
    }
    vf base = vf_if_less(lowest, top, top, vf_zero()); /* a query that has seen nothing yet has no top */
    for (int64_t i = 0; i < n; i++) {
        vf e = vf_exp2_within(vf_max(vf_set1(LEAST), vf_sub(vf_load(scores + i * step), base)));
        if (is_cut) e = vf_if_less(vf_set1((float)(t + i)), seen, e, vf_zero());
        vf_store(scores + i * step, e);
        total = vf_add(total, e);
    }
    vf keep = vf_if_less(lowest, before, vf_exp2_within(vf_max(vf_set1(LEAST), vf_sub(before, base))), vf_zero());
    vf_store(w->keep + row, keep);
    vf_store(w->total + row, vf_fma(vf_load(w->total + row), keep, total));
    vf_store(w->top + row, top);
}

static void attend_floats(const job *j, const item *it, const floats *w) {
    const int64_t dim = j->kv.head_dim, padded = j->padded_dim, rows = it->count * j->group, step = j->max_rows;
    for (int64_t row = 0; row < rows; row += NR) load_columns(j, it, row, rows, w->q + row, step, w->seen + row);
    for (int64_t row = 0; row < div_up(rows, NR) * NR; row++) w->top[row] = -INFINITY, w->total[row] = 0;
    memset(w->sums, 0, (size_t)(rows * padded) * 4);
    int64_t fewest = (int64_t)w->seen[0], most = (int64_t)w->seen[rows - 1];
    for (int64_t t = 0; t < most; t += RUN) {
        int64_t n = min64(RUN, most - t), first = 0;
        load_run(j, it, t, n, w);
        while (w->seen[first] <= (float)t) first++; /* queries that see nothing here */
        for (int64_t col = first / NR * NR; col < rows; col += NR) { /* softened while they are in the first cache */
            multiply(n, NR, dim, w->keys, dim, 1, w->q + col, step, w->scores + col, step, 0);
            for (int64_t row = col; row < min64(rows, col + NR); row += VF) soften(j, w, row, t, n, t + n > fewest);
        }
        for (int64_t row = first; row < rows; row++)
            if (w->keep[row] != 1) scale_row(w->sums + row * padded, padded, w->keep[row]);
        multiply(rows - first, padded, n, w->scores + first, 1, step, w->values, padded, w->sums + first * padded,
                 padded, 1);
    }
    store_rows(j, it, rows, w->sums, w->total);
}

static void attend_floats_items(void *argument, int64_t begin, int64_t end, void *scratch) {
    const job *j = argument;
    floats w = lay_out_floats(j, scratch);
    memset(w.values, 0, (size_t)(RUN * j->padded_dim) * 4); /* columns from D on stay zero */
    for (int64_t u = begin; u < end; u++) attend_floats(j, &j->items[u], &w);
}

#endif
