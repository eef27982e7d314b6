/* A few query heads over keys and values as they lie in a cache, in any float dtype: each number is loaded once for all
   of the heads, and sums stay in registers. */

#ifndef RTP_CPU_DECODE_TILE_H
#define RTP_CPU_DECODE_TILE_H

#include "tile.h"

enum { TILE_HEADS = 4 };

/* Tokens of one block, `step` elements apart. */
typedef struct {
    const void *first, *ahead; /* ahead: as many of the same form to fetch meanwhile, or NULL */
    int64_t count, step;
} cached_rows;

INLINE vf vf_load_as(const int dtype, const void *p) {
    return dtype == RTP_CPU_F32 ? vf_load(p) : dtype == RTP_CPU_F16 ? vf_load_f16(p) : vf_load_bf16(p);
}
INLINE vf vf_loadn_as(const int dtype, const void *p, int64_t n) {
    float x[VF] = {0};
    load_f32(dtype, p, n, x);
    return vf_load(x);
}

INLINE void fetch_row(const int dtype, const cached_rows *rows, int64_t i, int64_t dim) {
    if (!rows->ahead) return;
    const char *row = at(rows->ahead, dtype, i * rows->step);
    for (int64_t byte = 0; byte < dim * dtype_bytes(dtype); byte += 64) __builtin_prefetch(row + byte);
}

/* Tokens that are scored at a time: with their heads they are VF sums. */
INLINE int tile_tokens(const int heads) { return VF / (heads > 2 ? 4 : heads); }

/* scores[h, i] = q[h] . row i, for `heads` rows of q [heads, dim]. Writes up to VF scores of a head past the last. */
INLINE void score_rows(const int dtype, const int heads, const cached_rows *rows, int64_t dim, const float *q,
                       float *scores, int64_t scores_row) {
    const int tokens = tile_tokens(heads);
    for (int64_t i = 0; i < rows->count; i += tokens) {
        const void *row[VF];
        vf sums[VF];
        float all[VF];
#pragma GCC unroll 16
        for (int t = 0; t < tokens; t++) {
            int64_t token = min64(i + t, rows->count - 1);
            row[t] = at(rows->first, dtype, token * rows->step);
            fetch_row(dtype, rows, token, dim);
        }
#pragma GCC unroll 16
        for (int s = 0; s < VF; s++) sums[s] = vf_zero();
        int64_t d = 0;
        for (; d + VF <= dim; d += VF) {
#pragma GCC unroll 16
            for (int t = 0; t < tokens; t++) {
                vf x = vf_load_as(dtype, at(row[t], dtype, d));
#pragma GCC unroll 4
                for (int h = 0; h < heads; h++)
                    sums[h * tokens + t] = vf_fma(x, vf_load(q + h * dim + d), sums[h * tokens + t]);
            }
        }
#pragma GCC unroll 16
        for (int t = 0; d < dim && t < tokens; t++) {
            vf x = vf_loadn_as(dtype, at(row[t], dtype, d), dim - d);
#pragma GCC unroll 4
            for (int h = 0; h < heads; h++)
                sums[h * tokens + t] = vf_fma(x, vf_loadn(q + h * dim + d, dim - d), sums[h * tokens + t]);
        }
        vf_store(all, vf_sums(sums));
#pragma GCC unroll 4
        for (int h = 0; h < heads; h++) memcpy(scores + h * scores_row + i, all + h * tokens, (size_t)tokens * 4);
    }
}

/* acc[h, d..d + width VF) += sum_i weights[h, i] * row i, or of the last `rest` columns where `rest` is not 0. */
INLINE void add_columns(const int dtype, const int heads, const int width, const cached_rows *rows, int64_t dim,
                        int64_t d, int64_t rest, const float *weights, int64_t weights_row, float *acc) {
    vf sums[TILE_HEADS][4];
    for (int h = 0; h < heads; h++)
        for (int v = 0; v < width; v++)
            sums[h][v] = rest ? vf_loadn(acc + h * dim + d, rest) : vf_load(acc + h * dim + d + v * VF);
    for (int64_t i = 0; i < rows->count; i++) {
        const void *row = at(rows->first, dtype, i * rows->step + d);
        if (d == 0) fetch_row(dtype, rows, i, dim);
#pragma GCC unroll 4
        for (int v = 0; v < width; v++) {
            vf x = rest ? vf_loadn_as(dtype, row, rest) : vf_load_as(dtype, at(row, dtype, v * VF));
#pragma GCC unroll 4
            for (int h = 0; h < heads; h++) sums[h][v] = vf_fma(vf_set1(weights[h * weights_row + i]), x, sums[h][v]);
        }
    }
    for (int h = 0; h < heads; h++)
        for (int v = 0; v < width; v++) {
            if (rest) vf_storen(acc + h * dim + d, sums[h][v], rest);
            else vf_store(acc + h * dim + d + v * VF, sums[h][v]);
        }
}

/* acc[h] += sum_i weights[h, i] * row i: acc [heads, dim], weights [heads, count]. */
INLINE void add_rows(const int dtype, const int heads, const cached_rows *rows, int64_t dim, const float *weights,
                     int64_t weights_row, float *acc) {
    const int width = VF == 16 || heads < TILE_HEADS ? 4 : 2; /* so that sums are no more than registers */
    int64_t d = 0;
    for (; d + width * VF <= dim; d += width * VF)
        add_columns(dtype, heads, width, rows, dim, d, 0, weights, weights_row, acc);
    for (; d + VF <= dim; d += VF) add_columns(dtype, heads, 1, rows, dim, d, 0, weights, weights_row, acc);
    if (d < dim) add_columns(dtype, heads, 1, rows, dim, d, dim - d, weights, weights_row, acc);
}

#endif
