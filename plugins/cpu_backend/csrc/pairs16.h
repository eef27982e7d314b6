/* Layout pairs16 of a bf16 weight [n, k]: 16 rows side by side, so that one line of 64 bytes holds 2 neighbours along K
   of each, those of row r at 2r. Lines go by row group, then by pair; what is missing of a row group or a pair is zeros.

   Below, the products of a line with pairs of activations in the ISA's own way. A dot product of bf16 takes a pair in
   one step, with activations rounded to bf16; it rounds each sum to nearest even and takes denormals for 0. Without one
   there are two steps of f32: the first of each pair, shifted into floats, then the second. Either way a row adds its
   products in one order, however many rows there are. */

#ifndef RTP_CPU_PAIRS16_H
#define RTP_CPU_PAIRS16_H

#include "tile.h"

enum { PAIR_ROWS = 16, PAIR_LINE = 2 * PAIR_ROWS }; /* rows side by side; elements of a line */

INLINE int64_t pairs_of(int64_t k) { return div_up(k, 2); }

/* Elements of a row group. */
INLINE int64_t pairs16_group(int64_t k) { return pairs_of(k) * PAIR_LINE; }

/* Rows of activations, and times 16 rows of weights, in one register tile. */
#if defined(RTP_ISA_AVX512)
enum { PAIR_TILE_M = 12, PAIR_TILE_N = 2 };
#elif defined(RTP_ISA_AVX2)
enum { PAIR_TILE_M = 6, PAIR_TILE_N = 1 };
#else
enum { PAIR_TILE_M = 4, PAIR_TILE_N = 1 };
#endif

#if defined(RTP_ISA_AVX512BF16)

typedef uint16_t factor; /* an activation as it is multiplied */
enum { FACTOR = RTP_CPU_BF16, STEPS = 1 };
typedef __m512i step_line;

INLINE step_line step_load(const uint16_t *line, const int step) {
    (void)step;
    return _mm512_loadu_si512(line);
}
/* A pair from memory to all lanes within the instruction: the compiler makes two of it. */
INLINE v16 step_add(v16 sum, step_line w, const factor *pair, const int step) {
    (void)step;
#if defined(RTP_ISA_EMULATED)
    int32_t two;
    memcpy(&two, pair, 4);
    sum.v[0] = emulated_dpbf16_ps(sum.v[0], w, _mm512_set1_epi32(two));
#else
    __asm__("vdpbf16ps %2%{1to16%}, %1, %0" : "+v"(sum.v[0]) : "v"(w), "m"(*(const factor(*)[2])pair));
#endif
    return sum;
}

#else

typedef float factor;
enum { FACTOR = RTP_CPU_F32, STEPS = 2 };
typedef v16 step_line;

INLINE step_line step_load(const uint16_t *line, const int step) {
    v16 y;
    V16_EACH
        y.v[i_] = step ? vf_load_odd(line + 2 * i_ * VF) : vf_load_even(line + 2 * i_ * VF);
    return y;
}
INLINE v16 step_add(v16 sum, step_line w, const factor *pair, const int step) { return v16_fma1(w, pair[step], sum); }

#endif

#endif
