/* The register tile of every float matrix product: up to MR rows times NR columns, accumulated in f32. */

#ifndef RTP_CPU_GEMM_TILE_H
#define RTP_CPU_GEMM_TILE_H

#include "tile.h"

enum { NR = 2 * VF };
#if defined(RTP_ISA_AVX512)
enum { MR = 12 }; /* 24 accumulators of 32 registers */
#elif defined(RTP_ISA_AVX2)
enum { MR = 6 };
#else
enum { MR = 4 };
#endif

INLINE void gemm_tile_of(const int rows, int64_t k, const float *a, int64_t a_row, int64_t a_col, const float *b,
                         int64_t b_row, float *c, int64_t c_row, int add) {
    vf acc[12][2];
#pragma GCC unroll 12
    for (int m = 0; m < rows; m++) {
        acc[m][0] = add ? vf_load(c + m * c_row) : vf_zero();
        acc[m][1] = add ? vf_load(c + m * c_row + VF) : vf_zero();
    }
    for (int64_t i = 0; i < k; i++, a += a_col, b += b_row) {
        vf b0 = vf_load(b), b1 = vf_load(b + VF);
#pragma GCC unroll 12
        for (int m = 0; m < rows; m++) {
            vf x = vf_set1(a[m * a_row]);
            acc[m][0] = vf_fma(x, b0, acc[m][0]);
            acc[m][1] = vf_fma(x, b1, acc[m][1]);
        }
    }
#pragma GCC unroll 12
    for (int m = 0; m < rows; m++) {
        vf_store(c + m * c_row, acc[m][0]);
        vf_store(c + m * c_row + VF, acc[m][1]);
    }
}

/* c[m, 0..NR) (+)= sum_i a[m, i] * b[i, 0..NR) for m < rows <= MR. All f32, c and b rows NR wide at least. */
static __attribute__((unused, noinline)) void gemm_tile(int rows, int64_t k, const float *a, int64_t a_row,
                                                        int64_t a_col, const float *b, int64_t b_row, float *c,
                                                        int64_t c_row, int add) {
#define RTP_CASE(n) \
    case n: gemm_tile_of(n <= MR ? n : 1, k, a, a_row, a_col, b, b_row, c, c_row, add); return;
    switch (rows) {
        RTP_CASE(1)
        RTP_CASE(2) RTP_CASE(3) RTP_CASE(4) RTP_CASE(5) RTP_CASE(6) RTP_CASE(7) RTP_CASE(8) RTP_CASE(9) RTP_CASE(10)
            RTP_CASE(11) RTP_CASE(12) default : return;
    }
#undef RTP_CASE
}

/* out[i, c] = rows[c][i] as f32 for i < k, c < count <= NR; columns up to NR are zero. out rows are out_row apart. */
static __attribute__((unused)) void pack_columns(float *out, int64_t out_row, const void *const *rows, int64_t count,
                                                 int dtype, int64_t k) {
    enum { STEP = 16 };
    for (int64_t i = 0; i < k; i += STEP) {
        float part[NR][STEP];
        int64_t n = min64(STEP, k - i);
        for (int64_t c = 0; c < NR; c++) {
            if (c >= count) memset(part[c], 0, sizeof part[c]);
            else if (n == STEP && dtype == RTP_CPU_F32) memcpy(part[c], (const float *)rows[c] + i, sizeof part[c]);
            else load_f32(dtype, at(rows[c], dtype, i), n, part[c]);
        }
        for (int64_t s = 0; s < n; s++) {
            float *line = out + (i + s) * out_row;
            for (int64_t c = 0; c < NR; c++) line[c] = part[c][s];
        }
    }
}

#endif
