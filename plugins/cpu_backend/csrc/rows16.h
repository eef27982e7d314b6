/* Layout rows16 of a quantized weight [n, k]: 16 rows side by side, so that one line of 64 bytes holds 4 neighbours
   along K of each (see dots.h). Blocks go by row group, then by K group of 32; rows are padded to 16 with scale 0.

     block  = 16 scales | 16 zeros (asymmetric schemes) | codes, in lines
     scales: f16; of schemes with super-groups bytes, twice 16 where a group has 16 columns; zeros alike
     codes: 4 bits, 4 lines: line q has k = 4q + i in its low and k = 16 + 4q + i in its high nibbles
            more bits, 8 lines: line q has k = 4q + i, less the scheme's offset and plus 128
     super-groups: before every 8 blocks 16 f16 scale factors | 16 f16 zero factors (asymmetric schemes)

   value = scale * (code - offset) + zero, where scale and zero are factor * byte in schemes with super-groups. */

#ifndef RTP_CPU_ROWS16_H
#define RTP_CPU_ROWS16_H

#include "dots.h"

enum { SUPER_GROUPS = 8 }; /* blocks of a super-group */

typedef struct {
    int bits, is_asymmetric, offset, group; /* offset: the code of 0, of the plain codes */
    int is_super, is_nibbles; /* is_nibbles: how codes are stored here */
} rows16_scheme;

INLINE int is_scheme(int scheme) { return scheme >= RTP_CPU_Q4_0 && scheme <= RTP_CPU_Q6_K; }

INLINE rows16_scheme rows16_of(int scheme) {
    switch (scheme) {
        case RTP_CPU_Q4_0: return (rows16_scheme){4, 0, 8, 32, 0, 1};
        case RTP_CPU_Q4_1: return (rows16_scheme){4, 1, 0, 32, 0, 1};
        case RTP_CPU_Q5_0: return (rows16_scheme){5, 0, 16, 32, 0, 0};
        case RTP_CPU_Q5_1: return (rows16_scheme){5, 1, 0, 32, 0, 0};
        case RTP_CPU_Q4_K: return (rows16_scheme){4, 1, 0, 32, 1, 1};
        case RTP_CPU_Q5_K: return (rows16_scheme){5, 1, 0, 32, 1, 0};
        case RTP_CPU_Q6_K: return (rows16_scheme){6, 0, 32, 16, 1, 0};
        default: return (rows16_scheme){8, 0, 0, 32, 0, 0};
    }
}

/* Scales of a 32-column block: 1 for each row, or 2. */
INLINE int rows16_halves(rows16_scheme s) { return GROUP / s.group; }
INLINE int64_t rows16_number_bytes(rows16_scheme s) { return s.is_super ? ROWS * rows16_halves(s) : ROWS * 2; }
INLINE int64_t rows16_codes_at(rows16_scheme s) { return rows16_number_bytes(s) * (1 + s.is_asymmetric); }
INLINE int64_t rows16_block_bytes(rows16_scheme s) {
    return rows16_codes_at(s) + (s.is_nibbles ? LINES / 2 : LINES) * LINE;
}
INLINE int64_t rows16_super_bytes(rows16_scheme s) { return s.is_super ? ROWS * 2 * (1 + s.is_asymmetric) : 0; }

/* Columns of a weight come in multiples of this. */
INLINE int64_t rows16_unit(rows16_scheme s) { return s.is_super ? GROUP * SUPER_GROUPS : GROUP; }

/* Where block g of a row group begins, from the begin of that row group. */
INLINE int64_t rows16_block_at(rows16_scheme s, int64_t g) {
    return g * rows16_block_bytes(s) + (g / SUPER_GROUPS + 1) * rows16_super_bytes(s);
}
INLINE int64_t rows16_group_bytes(rows16_scheme s, int64_t groups) {
    return groups * rows16_block_bytes(s) + groups / SUPER_GROUPS * rows16_super_bytes(s);
}

/* The factors of block g, from its own begin. */
INLINE const uint16_t *rows16_factors(rows16_scheme s, const uint8_t *block, int64_t g) {
    return (const uint16_t *)(block - g % SUPER_GROUPS * rows16_block_bytes(s) - rows16_super_bytes(s));
}

INLINE v16 v16_load_u8(const uint8_t *p) {
    float values[ROWS];
    v16 y;
    for (int r = 0; r < ROWS; r++) values[r] = (float)p[r];
    V16_EACH
        y.v[i_] = vf_load(values + i_ * VF);
    return y;
}
INLINE v16 v16_load_i8(const uint8_t *p) {
    float values[ROWS];
    v16 y;
    for (int r = 0; r < ROWS; r++) values[r] = (float)(int8_t)p[r];
    V16_EACH
        y.v[i_] = vf_load(values + i_ * VF);
    return y;
}
INLINE v16 v16_mul(v16 a, v16 b) {
    V16_EACH
        a.v[i_] = vf_mul(a.v[i_], b.v[i_]);
    return a;
}

/* The 16 scales of half h of block g, and its zeros. */
INLINE v16 rows16_scale(const rows16_scheme s, const uint8_t *block, int64_t g, const int h) {
    if (!s.is_super) return v16_load_f16((const uint16_t *)block);
    v16 factor = v16_load_f16(rows16_factors(s, block, g));
    return v16_mul(factor, s.is_asymmetric ? v16_load_u8(block) : v16_load_i8(block + ROWS * h));
}
INLINE v16 rows16_zero(const rows16_scheme s, const uint8_t *block, int64_t g) {
    const uint8_t *zeros = block + rows16_number_bytes(s);
    if (!s.is_super) return v16_load_f16((const uint16_t *)zeros);
    return v16_mul(v16_load_f16(rows16_factors(s, block, g) + ROWS), v16_load_u8(zeros));
}

/* Line q of 8, as dots_add wants it. */
INLINE line16 rows16_line(const rows16_scheme s, const uint8_t *codes, const int q) {
    if (!s.is_nibbles) return line_load(codes + q * LINE);
    return q < LINES / 2 ? line_low(codes + q * LINE) : line_high(codes + (q - LINES / 2) * LINE);
}

#endif
