/* Integer dot products of 16 weight rows with one row of activations, exact, in the ISA's own way.

   A line holds 4 neighbours along K of each row: byte 4r + i is the code of row r at k + i. Two kinds of operands:
     NIBBLES  codes of 0 to 15, int8 activations
     BYTES    codes of -128 to 127 stored as unsigned with 128 added, int8 activations
   `dots_add` adds the products of lines, PANEL_COLUMNS at most, with the same 4 activations; `dots_done` gives the sums
   with `start` added, as floats, wherever an ISA adds it: in `dots_start` or at the end. Where codes are multiplied as
   unsigned, `dots_bias` tells what each is too large by: start makes up for it. */

#ifndef RTP_CPU_DOTS_H
#define RTP_CPU_DOTS_H

#include "tile.h"

enum { NIBBLES, BYTES };

enum { GROUP = 32, ROWS = 16, LINE = 64, LINES = 8 }; /* a group of K; rows side by side; bytes; lines of a group */

/* Nothing overflows: NIBBLES in int16 sum 16 products of at most 15 * 127, BYTES two of at most 128 * 127. */

#if defined(RTP_ISA_AVX512)

/* Of weights as they lie: rows of activations in one register tile, and how many rows at most. Of a panel: row groups
   beside each other. */
enum { TILE_ROWS = 12, DIRECT_ROWS = 24, PANEL_COLUMNS = 3 };
typedef struct {
    __m512i codes;
} line16;
typedef struct {
    __m512i sum;
} dots16;

INLINE int32_t dots_bias(const int kind) { return kind == BYTES ? 128 : 0; }

INLINE line16 line_load(const uint8_t *p) { return (line16){_mm512_loadu_si512(p)}; }
INLINE line16 line_low(const uint8_t *p) {
    return (line16){_mm512_and_si512(_mm512_loadu_si512(p), _mm512_set1_epi8(15))};
}
INLINE line16 line_high(const uint8_t *p) {
    return (line16){_mm512_and_si512(_mm512_srli_epi16(_mm512_loadu_si512(p), 4), _mm512_set1_epi8(15))};
}
INLINE void line_store(uint8_t *p, line16 w) { _mm512_storeu_si512(p, w.codes); }

INLINE dots16 dots_start(int32_t start) { return (dots16){_mm512_set1_epi32(start)}; }

/* Four bytes of activations go to all lanes within the instruction that multiplies one line, where the compiler makes two
   of it; for several lines once. */
#if defined(RTP_ISA_EMULATED)
INLINE __m512i dot_bytes(__m512i sum, __m512i u, __m512i a) { return _mm512_dpbusd_epi32(sum, u, a); }
INLINE __m512i dot_bytes_at(__m512i sum, __m512i u, const void *a) {
    int32_t four;
    memcpy(&four, a, 4);
    return dot_bytes(sum, u, _mm512_set1_epi32(four));
}
#else
INLINE __m512i dot_bytes(__m512i sum, __m512i u, __m512i a) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(u), "v"(a));
    return sum;
}
INLINE __m512i dot_bytes_at(__m512i sum, __m512i u, const void *a) {
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(u), "m"(*(const char(*)[4])a));
    return sum;
}
#endif

INLINE void dots_add(const int kind, dots16 *d, const line16 *w, const int count, const void *a) {
    (void)kind;
    if (count == 1) {
        d->sum = dot_bytes_at(d->sum, w->codes, a);
        return;
    }
    int32_t four;
    memcpy(&four, a, 4);
    const __m512i x = _mm512_set1_epi32(four);
#pragma GCC unroll 3
    for (int c = 0; c < count; c++) d[c].sum = dot_bytes(d[c].sum, w[c].codes, x);
}

INLINE v16 dots_done(const int kind, dots16 d, int32_t start) {
    (void)kind, (void)start;
    return (v16){{_mm512_cvtepi32_ps(d.sum)}};
}

#elif defined(RTP_ISA_AVX2) || defined(RTP_ISA_AVXVNNI)

enum { TILE_ROWS = 4, DIRECT_ROWS = 4, PANEL_COLUMNS = 1 };
typedef struct {
    __m256i codes[2]; /* rows 0 to 7, 8 to 15 */
} line16;
typedef struct {
    __m256i sum[2];
} dots16;

#if defined(RTP_ISA_AVXVNNI)
INLINE int32_t dots_bias(const int kind) { return kind == BYTES ? 128 : 0; }
#else
/* Added in place: left to itself the compiler copies running sums about. */
INLINE __m256i add_words(__m256i sum, __m256i x) {
    __asm__("vpaddw %1, %0, %0" : "+x"(sum) : "x"(x));
    return sum;
}
INLINE __m256i add_dwords(__m256i sum, __m256i x) {
    __asm__("vpaddd %1, %0, %0" : "+x"(sum) : "x"(x));
    return sum;
}
INLINE int32_t dots_bias(const int kind) { return (void)kind, 0; }
#endif

INLINE line16 line_load(const uint8_t *p) {
    return (line16){{_mm256_loadu_si256((const __m256i *)p), _mm256_loadu_si256((const __m256i *)(p + 32))}};
}
INLINE line16 line_low(const uint8_t *p) {
    line16 w = line_load(p);
    for (int h = 0; h < 2; h++) w.codes[h] = _mm256_and_si256(w.codes[h], _mm256_set1_epi8(15));
    return w;
}
INLINE line16 line_high(const uint8_t *p) {
    line16 w = line_load(p);
    for (int h = 0; h < 2; h++)
        w.codes[h] = _mm256_and_si256(_mm256_srli_epi16(w.codes[h], 4), _mm256_set1_epi8(15));
    return w;
}
INLINE void line_store(uint8_t *p, line16 w) {
    for (int h = 0; h < 2; h++) _mm256_storeu_si256((__m256i *)(p + 32 * h), w.codes[h]);
}

INLINE dots16 dots_start(int32_t start) {
    __m256i zero = _mm256_setzero_si256();
    (void)start;
    return (dots16){{zero, zero}};
}

INLINE void dots_add(const int kind, dots16 *d, const line16 *lines, const int count, const void *a) {
    const line16 w = *lines;
    (void)kind, (void)count;
    int32_t four;
    memcpy(&four, a, 4);
    __m256i x = _mm256_set1_epi32(four);
    for (int h = 0; h < 2; h++) {
#if defined(RTP_ISA_AVXVNNI)
        d->sum[h] = _mm256_dpbusd_avx_epi32(d->sum[h], w.codes[h], x);
#else
        if (kind == NIBBLES) {
            d->sum[h] = add_words(d->sum[h], _mm256_maddubs_epi16(w.codes[h], x));
        } else { /* |code| times the activation with the code's sign */
            __m256i codes = _mm256_xor_si256(w.codes[h], _mm256_set1_epi8((char)-128));
            __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(codes), _mm256_sign_epi8(x, codes));
            d->sum[h] = add_dwords(d->sum[h], _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
        }
#endif
    }
}

INLINE v16 dots_done(const int kind, dots16 d, int32_t start) {
    v16 y;
    (void)kind;
    for (int h = 0; h < 2; h++) {
        __m256i sum = d.sum[h];
#if !defined(RTP_ISA_AVXVNNI)
        if (kind == NIBBLES) sum = _mm256_madd_epi16(sum, _mm256_set1_epi16(1));
#endif
        y.v[h] = _mm256_cvtepi32_ps(_mm256_add_epi32(sum, _mm256_set1_epi32(start)));
    }
    return y;
}

#elif defined(RTP_ISA_DOTPROD)

enum { TILE_ROWS = 4, DIRECT_ROWS = 4, PANEL_COLUMNS = 1 };
typedef struct {
    uint8x16_t codes[4]; /* four rows each */
} line16;
typedef struct {
    int32x4_t sum[4];
} dots16;

INLINE int32_t dots_bias(const int kind) { return (void)kind, 0; }

INLINE line16 line_load(const uint8_t *p) {
    return (line16){{vld1q_u8(p), vld1q_u8(p + 16), vld1q_u8(p + 32), vld1q_u8(p + 48)}};
}
INLINE line16 line_low(const uint8_t *p) {
    line16 w = line_load(p);
    for (int i = 0; i < 4; i++) w.codes[i] = vandq_u8(w.codes[i], vdupq_n_u8(15));
    return w;
}
INLINE line16 line_high(const uint8_t *p) {
    line16 w = line_load(p);
    for (int i = 0; i < 4; i++) w.codes[i] = vshrq_n_u8(w.codes[i], 4);
    return w;
}
INLINE void line_store(uint8_t *p, line16 w) {
    for (int i = 0; i < 4; i++) vst1q_u8(p + 16 * i, w.codes[i]);
}

INLINE dots16 dots_start(int32_t start) {
    int32x4_t zero = vdupq_n_s32(0);
    (void)start;
    return (dots16){{zero, zero, zero, zero}};
}

INLINE void dots_add(const int kind, dots16 *d, const line16 *lines, const int count, const void *a) {
    const line16 w = *lines;
    int32_t four;
    (void)count;
    memcpy(&four, a, 4);
    const int8x16_t x = vreinterpretq_s8_s32(vdupq_n_s32(four));
    for (int i = 0; i < 4; i++) {
        uint8x16_t codes = kind == NIBBLES ? w.codes[i] : veorq_u8(w.codes[i], vdupq_n_u8(128));
        int8x16_t s = vreinterpretq_s8_u8(codes);
        d->sum[i] = vdotq_s32(d->sum[i], s, x);
    }
}

INLINE v16 dots_done(const int kind, dots16 d, int32_t start) {
    (void)kind;
    v16 y;
    for (int i = 0; i < 4; i++) y.v[i] = (vf)vcvtq_f32_s32(vaddq_s32(d.sum[i], vdupq_n_s32(start)));
    return y;
}

#else

enum { TILE_ROWS = 4, DIRECT_ROWS = 4, PANEL_COLUMNS = 1 };
typedef struct {
    uint8_t codes[LINE];
} line16;
typedef struct {
    int32_t sum[ROWS];
} dots16;

INLINE int32_t dots_bias(const int kind) { return kind == NIBBLES ? 0 : 128; }

INLINE line16 line_load(const uint8_t *p) {
    line16 w;
    memcpy(w.codes, p, LINE);
    return w;
}
INLINE line16 line_low(const uint8_t *p) {
    line16 w;
    for (int i = 0; i < LINE; i++) w.codes[i] = p[i] & 15;
    return w;
}
INLINE line16 line_high(const uint8_t *p) {
    line16 w;
    for (int i = 0; i < LINE; i++) w.codes[i] = p[i] >> 4;
    return w;
}
INLINE void line_store(uint8_t *p, line16 w) { memcpy(p, w.codes, LINE); }

INLINE dots16 dots_start(int32_t start) {
    (void)start;
    return (dots16){{0}};
}

static __attribute__((noinline, unused)) void add_line(dots16 *d, const line16 *w, const int8_t *x) {
    for (int r = 0; r < ROWS; r++) {
        int32_t sum = 0;
        for (int i = 0; i < 4; i++) sum += (int32_t)w->codes[4 * r + i] * x[i];
        d->sum[r] += sum;
    }
}

INLINE void dots_add(const int kind, dots16 *d, const line16 *w, const int count, const void *a) {
    (void)kind, (void)count;
    add_line(d, w, a);
}

INLINE v16 dots_done(const int kind, dots16 d, int32_t start) {
    v16 y;
    (void)kind;
    for (int r = 0; r < ROWS; r++) y.v[r / VF][r % VF] = (float)(d.sum[r] + start);
    return y;
}

#endif

#endif
