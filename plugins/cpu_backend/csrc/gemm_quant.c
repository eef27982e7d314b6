/* Matrix products with quantized weights. Activations become int8 in groups of 32, scale amax / 127, to nearest
   even; at two levels what is left of them becomes int8 again, with 1/254 of the scale (half a step is its largest
   magnitude), which leaves 16 bits in all. Per group and level: an exact integer dot product, then one f32 multiply and add for the scales, and one more for
   the zero of asymmetric schemes, which meets the sum of the dequantized activations. */

#include "rows16.h"

#if defined(RTP_ISA_AVX512)
enum { QMR = 12 }; /* rows of a in one register tile */
#else
enum { QMR = 4 };
#endif

enum { AHEAD = 4096 }; /* bytes of weights to prefetch */

#define FINE (1.0f / 254.0f) /* scale of the second level over that of the first */

typedef struct {
    int dtype, bias_dtype, scheme, levels;
    void *out;
    const void *a, *bias;
    const uint8_t *w;
    int64_t m, n, k, groups, out_row, a_row;
    int8_t *codes, *fine_codes; /* [m, k], of the first and the second level */
    float *scales; /* [m, groups], of the first level */
    float *sums; /* [m, groups]: sum of what the codes stand for; asymmetric schemes */
    int32_t *starts, *fine_starts; /* [m, groups]: -offset * sum of codes; symmetric schemes */
    int64_t row_groups, group_blocks, block_groups, row_blocks, block_rows;
} job;

/* Whole numbers nearest to x * inverse, all within int8, and their sum. */
INLINE int32_t round_group(const float *x, float inverse, int8_t *codes) {
    int32_t sum = 0;
    for (int i = 0; i < GROUP; i++) {
        float shifted = x[i] * inverse + 12582912.0f; /* 1.5 * 2^23: the low byte is the nearest whole number */
        int32_t bits;
        memcpy(&bits, &shifted, 4);
        codes[i] = (int8_t)((bits & 0x1ff) - ((bits & 0x100) << 1));
        sum += codes[i];
    }
    return sum;
}

/* One group of activations. The largest magnitude is found on the bits, so that NaN and inf are seen too. */
INLINE void quantize_group(const float *x, int8_t *codes, float *scale, int32_t *sum) {
    uint32_t top = 0;
    for (int i = 0; i < GROUP; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, 4);
        bits &= 0x7fffffffu;
        top = bits > top ? bits : top;
    }
    float amax;
    memcpy(&amax, &top, 4);
    *sum = 0;
    if (top >= 0x7f800000u || amax < 1e-30f) { /* not finite: the scale makes the row NaN; tiny: 127 / amax overflows */
        uint32_t nan = 0x7fc00000u;
        memset(codes, 0, GROUP);
        *scale = 0;
        if (top >= 0x7f800000u) memcpy(scale, &nan, 4);
        return;
    }
    *scale = amax / 127.0f;
    *sum = round_group(x, 127.0f / amax, codes);
}

/* The second level of a group whose first one is done. */
INLINE int32_t quantize_rest(const float *x, const int8_t *codes, float scale, int8_t *fine_codes) {
    float rest[GROUP];
    if (!(scale > 1e-30f)) { /* nothing is left of a group of zeros; one that is not finite is NaN already */
        memset(fine_codes, 0, GROUP);
        return 0;
    }
    for (int i = 0; i < GROUP; i++) {
        float left = (x[i] - scale * (float)codes[i]) / scale * 254.0f;
        rest[i] = left > 127.0f ? 127.0f : left < -127.0f ? -127.0f : left; /* a tie may round past half a step */
    }
    return round_group(rest, 1.0f, fine_codes);
}

static void quantize_rows(void *argument, int64_t begin, int64_t end, void *scratch) {
    const job *j = argument;
    (void)scratch;
    rows16_scheme s = rows16_of(j->scheme);
    for (int64_t m = begin; m < end; m++) {
        for (int64_t g = 0; g < j->groups; g++) {
            float tile[GROUP];
            int32_t sum;
            int64_t place = m * j->groups + g;
            const float *x = tile_in(j->dtype, at(j->a, j->dtype, m * j->a_row + g * GROUP), GROUP, tile);
            quantize_group(x, j->codes + place * GROUP, j->scales + place, &sum);
            if (s.is_asymmetric) j->sums[place] = j->scales[place] * (float)sum;
            else j->starts[place] = -s.offset * sum;
            if (j->levels < 2) continue;
            sum = quantize_rest(x, j->codes + place * GROUP, j->scales[place], j->fine_codes + place * GROUP);
            if (s.is_asymmetric) j->sums[place] += j->scales[place] * FINE * (float)sum;
            else j->fine_starts[place] = -s.offset * sum;
        }
    }
}

/* values[m, 0..16) for m < rows: rows of a with one row group of w, over all of K. */
INLINE void quant_tile(const job *j, const int rows, const int scheme, const int levels, int64_t m0,
                       const uint8_t *block, float *values) {
    const rows16_scheme s = rows16_of(scheme);
    v16 acc[QMR];
#pragma GCC unroll 12
    for (int m = 0; m < rows; m++) acc[m] = v16_set1(0);
    const int64_t groups = j->groups;
    for (int64_t g = 0; g < groups; g++, block += s.block_bytes) {
        codes16 codes;
        v16 scale = v16_load_f16((const uint16_t *)block), zero = scale;
        if (s.is_asymmetric) zero = v16_load_f16((const uint16_t *)block + 16);
        if (rows <= 4) /* bound by memory: the hardware's own prefetch stops at pages */
            for (int64_t line = 0; line < s.block_bytes; line += 64) __builtin_prefetch(block + AHEAD + line);
        codes_load(&codes, s.bits, block + s.codes_at);
#pragma GCC unroll 12
        for (int m = 0; m < rows; m++) {
            int64_t place = (m0 + m) * groups + g;
            v16 dot = codes_dot(&codes, s.bits, j->codes + place * GROUP, s.is_asymmetric ? 0 : j->starts[place]);
            if (levels == 2) {
                int32_t start = s.is_asymmetric ? 0 : j->fine_starts[place];
                dot = v16_fma1(codes_dot(&codes, s.bits, j->fine_codes + place * GROUP, start), FINE, dot);
            }
            acc[m] = v16_fma(dot, v16_mul1(scale, j->scales[place]), acc[m]);
            if (s.is_asymmetric) acc[m] = v16_fma1(zero, j->sums[place], acc[m]);
        }
    }
#pragma GCC unroll 12
    for (int m = 0; m < rows; m++) v16_store(values + m * ROWS, acc[m]);
}

#define TILES_OF(scheme, levels)                                                                                  \
    static __attribute__((noinline)) void tile_##scheme##_##levels(const job *j, int rows, int64_t m0,           \
                                                                   const uint8_t *block, float *values) {        \
        switch (rows) {                                                                                           \
            case 1: quant_tile(j, 1, scheme, levels, m0, block, values); return;                                  \
            case 2: quant_tile(j, 2, scheme, levels, m0, block, values); return;                                  \
            case 3: quant_tile(j, 3, scheme, levels, m0, block, values); return;                                  \
            case 4: quant_tile(j, 4, scheme, levels, m0, block, values); return;                                  \
            case 6: quant_tile(j, QMR < 6 ? 1 : 6, scheme, levels, m0, block, values); return;                    \
            case 8: quant_tile(j, QMR < 8 ? 1 : 8, scheme, levels, m0, block, values); return;                    \
            default: quant_tile(j, QMR, scheme, levels, m0, block, values); return;                               \
        }                                                                                                         \
    }
TILES_OF(RTP_CPU_Q4_0, 1)
TILES_OF(RTP_CPU_Q4_1, 1)
TILES_OF(RTP_CPU_Q8_0, 1)
TILES_OF(RTP_CPU_Q4_0, 2)
TILES_OF(RTP_CPU_Q4_1, 2)
TILES_OF(RTP_CPU_Q8_0, 2)

typedef void tile_function(const job *j, int rows, int64_t m0, const uint8_t *block, float *values);

static tile_function *tile_of(int scheme, int levels) {
    switch (scheme) {
        case RTP_CPU_Q4_0: return levels == 2 ? tile_RTP_CPU_Q4_0_2 : tile_RTP_CPU_Q4_0_1;
        case RTP_CPU_Q4_1: return levels == 2 ? tile_RTP_CPU_Q4_1_2 : tile_RTP_CPU_Q4_1_1;
        default: return levels == 2 ? tile_RTP_CPU_Q8_0_2 : tile_RTP_CPU_Q8_0_1;
    }
}

/* The most rows, of those left, for which there is a tile. */
INLINE int tile_rows(int64_t left) {
    if (left >= QMR) return QMR;
    if (left >= 8) return 8;
    if (left >= 6) return 6;
    return left >= 4 ? 4 : (int)left;
}

static void store_tile(const job *j, int64_t m, int rows, int64_t n, float *values) {
    float bias[ROWS];
    int64_t width = min64(ROWS, j->n - n);
    if (j->bias) load_f32(j->bias_dtype, at(j->bias, j->bias_dtype, n), width, bias);
    for (int r = 0; r < rows; r++, values += ROWS) {
        for (int64_t i = 0; j->bias && i < width; i++) values[i] += bias[i];
        store_f32(j->dtype, at_mut(j->out, j->dtype, (m + r) * j->out_row + n), width, values);
    }
}

static void multiply(void *argument, int64_t begin, int64_t end, void *scratch) {
    const job *j = argument;
    (void)scratch;
    rows16_scheme s = rows16_of(j->scheme);
    tile_function *tile = tile_of(j->scheme, j->levels);
    for (int64_t u = begin; u < end; u++) {
        int64_t first = u % j->group_blocks * j->block_groups, last = min64(j->row_groups, first + j->block_groups);
        int64_t m = u / j->group_blocks * j->block_rows, m_end = min64(j->m, m + j->block_rows);
        while (m < m_end) { /* these rows of a stay in the first cache while the row groups of w pass */
            int rows = tile_rows(m_end - m);
            for (int64_t group = first; group < last; group++) {
                float values[QMR * ROWS];
                const uint8_t *block = j->w + group * j->groups * s.block_bytes;
                tile(j, rows, m, block, values);
                store_tile(j, m, rows, group * ROWS, values);
            }
            m += rows;
        }
    }
}

int KERNEL(gemm_rows16)(rtp_cpu_device *device, int scheme, int levels, int dtype, void *out, const void *a,
                        const uint8_t *w, int bias_dtype, const void *bias, int64_t m, int64_t n, int64_t k,
                        int64_t out_row, int64_t a_row) {
    if (!is_scheme(scheme) || levels < 1 || levels > 2 || !is_dtype(dtype) || (bias && !is_dtype(bias_dtype)) ||
        m < 0 || n < 0 || k < 0 || k % GROUP)
        return RTP_CPU_BAD_ARGUMENT;
    if (m == 0 || n == 0) return RTP_CPU_OK;
    rtp_pool *pool = device->pool;
    job j = {.dtype = dtype, .bias_dtype = bias_dtype, .scheme = scheme, .levels = levels, .out = out, .a = a, .bias = bias, .w = w};
    j.m = m, j.n = n, j.k = k, j.groups = k / GROUP, j.out_row = out_row, j.a_row = a_row;
    int64_t places = m * j.groups;
    void *shared;
    int status = rtp_pool_reserve(pool, places * (2 * GROUP + 16), &shared, 0);
    if (status != RTP_CPU_OK) return status;
    j.scales = shared;
    j.sums = j.scales + places;
    j.starts = (int32_t *)(j.sums + places);
    j.fine_starts = j.starts + places;
    j.codes = (int8_t *)(j.fine_starts + places);
    j.fine_codes = j.codes + places * GROUP;
    rtp_pool_run(pool, quantize_rows, &j, m, grain_for(3 * k));

    /* One piece: at most 32 KB of weights, which stay in the second cache, and 96 rows of a; enough pieces for all. */
    j.row_groups = div_up(n, ROWS);
    j.block_groups = max64(1, 32768 / max64(1, j.groups * rows16_of(scheme).block_bytes));
    j.block_groups = min64(j.block_groups, div_up(j.row_groups, 4 * (int64_t)rtp_pool_threads(pool)));
    j.group_blocks = div_up(j.row_groups, j.block_groups);
    j.block_rows = 96;
    j.row_blocks = div_up(m, j.block_rows);
    int64_t cost = min64(m, 96) * j.block_groups * ROWS * k / 4;
    rtp_pool_run(pool, multiply, &j, j.row_blocks * j.group_blocks, grain_for(cost));
    return RTP_CPU_OK;
}
