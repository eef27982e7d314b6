/* One vocabulary of vector operations, three times: AVX-512, AVX2 and whatever the compiler targets.

   vf is a vector of VF floats. The n-variants touch only the first n <= VF elements and load zeros beyond. vf_load_even
   and vf_load_odd take the first and the second of each of VF pairs of bf16.
   Numerics: vf_fma may round twice in the portable build; vf_max and vf_min return their second
   argument where either is NaN, so (constant, x) lets NaN through. */

#ifndef RTP_CPU_SIMD_H
#define RTP_CPU_SIMD_H

#include <stdint.h>
#include <string.h>

#include "internal.h"

#if defined(RTP_ISA_EMULATED) /* in tests only */
#include "emulated.h"
#elif defined(RTP_ISA_AVX2) || defined(RTP_ISA_AVX512)
#include <immintrin.h>
#elif defined(RTP_ISA_DOTPROD)
#include <arm_neon.h>
#endif

#if defined(RTP_ISA_AVX512)

typedef __m512 vf;
enum { VF = 16 };

INLINE vf vf_set1(float x) { return _mm512_set1_ps(x); }
INLINE vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
INLINE void vf_store(float *p, vf x) { _mm512_storeu_ps(p, x); }
INLINE vf vf_loadn(const float *p, int64_t n) { return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p); }
INLINE void vf_storen(float *p, vf x, int64_t n) { _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), x); }
INLINE vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
INLINE vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
INLINE vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
INLINE vf vf_div(vf a, vf b) { return _mm512_div_ps(a, b); }
INLINE vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
INLINE vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
INLINE vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); }
INLINE vf vf_abs(vf a) { return _mm512_abs_ps(a); }
INLINE vf vf_sqrt(vf a) { return _mm512_sqrt_ps(a); }
INLINE vf vf_if_less(vf a, vf b, vf x, vf y) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
}
INLINE vf vf_copysign(vf magnitude, vf sign) {
    __m512i bit = _mm512_set1_epi32((int)0x80000000u);
    return _mm512_castsi512_ps(
        _mm512_ternarylogic_epi32(bit, _mm512_castps_si512(sign), _mm512_castps_si512(magnitude), 0xca));
}
INLINE float vf_sum(vf a) { return _mm512_reduce_add_ps(a); }
INLINE vf vf_round(vf a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE vf vf_scale(vf a, vf n) { return _mm512_scalef_ps(a, n); } /* a * 2^n, n whole */
INLINE vf vf_load_f16(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
INLINE void vf_store_f16(uint16_t *p, vf x) {
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
INLINE vf vf_load_bf16(const uint16_t *p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
}
INLINE vf vf_load_even(const uint16_t *p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(p), 16));
}
INLINE vf vf_load_odd(const uint16_t *p) {
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(p), _mm512_set1_epi32(-65536)));
}
INLINE void vf_store_bf16(uint16_t *p, vf x) {
    __m512i bits = _mm512_castps_si512(x);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    rounded = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000)); /* stays NaN, made quiet */
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
}

#elif defined(RTP_ISA_AVX2) /* also with VNNI, see dots.h */

typedef __m256 vf;
enum { VF = 8 };

INLINE __m256i vf_mask(int64_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
INLINE vf vf_set1(float x) { return _mm256_set1_ps(x); }
INLINE vf vf_load(const float *p) { return _mm256_loadu_ps(p); }
INLINE void vf_store(float *p, vf x) { _mm256_storeu_ps(p, x); }
INLINE vf vf_loadn(const float *p, int64_t n) { return _mm256_maskload_ps(p, vf_mask(n)); }
INLINE void vf_storen(float *p, vf x, int64_t n) { _mm256_maskstore_ps(p, vf_mask(n), x); }
INLINE vf vf_add(vf a, vf b) { return _mm256_add_ps(a, b); }
INLINE vf vf_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
INLINE vf vf_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
INLINE vf vf_div(vf a, vf b) { return _mm256_div_ps(a, b); }
INLINE vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
INLINE vf vf_max(vf a, vf b) { return _mm256_max_ps(a, b); }
INLINE vf vf_min(vf a, vf b) { return _mm256_min_ps(a, b); }
INLINE vf vf_abs(vf a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
INLINE vf vf_sqrt(vf a) { return _mm256_sqrt_ps(a); }
INLINE vf vf_if_less(vf a, vf b, vf x, vf y) { return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_LT_OQ)); }
INLINE vf vf_copysign(vf magnitude, vf sign) {
    __m256 bit = _mm256_set1_ps(-0.0f);
    return _mm256_or_ps(_mm256_andnot_ps(bit, magnitude), _mm256_and_ps(bit, sign));
}
INLINE float vf_sum(vf a) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
INLINE vf vf_round(vf a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE vf vf_scale(vf a, vf n) { /* in two steps, so that 2^n itself neither overflows nor vanishes */
    __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1), bias = _mm256_set1_epi32(127);
    __m256i rest = _mm256_sub_epi32(whole, half);
    a = _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23)));
    return _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23)));
}
INLINE vf vf_load_f16(const uint16_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }
INLINE void vf_store_f16(uint16_t *p, vf x) {
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
INLINE vf vf_load_bf16(const uint16_t *p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16));
}
INLINE vf vf_load_even(const uint16_t *p) { /* by a shuffle: shifts share their ports with multiplications */
    const __m128i to_upper = _mm_setr_epi8(-1, -1, 0, 1, -1, -1, 4, 5, -1, -1, 8, 9, -1, -1, 12, 13);
    __m256i pairs = _mm256_loadu_si256((const __m256i *)p);
    return _mm256_castsi256_ps(_mm256_shuffle_epi8(pairs, _mm256_broadcastsi128_si256(to_upper)));
}
INLINE vf vf_load_odd(const uint16_t *p) {
    __m256i pairs = _mm256_loadu_si256((const __m256i *)p);
    return _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(-65536)));
}
INLINE void vf_store_bf16(uint16_t *p, vf x) {
    __m256i bits = _mm256_castps_si256(x);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    rounded = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
    __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(rounded, rounded), 0xd8);
    _mm_storeu_si128((__m128i *)p, _mm256_castsi256_si128(packed));
}

#else /* portable: the compiler's generic vectors, which it lowers to whatever the target has */

typedef float vf __attribute__((vector_size(16)));
typedef int32_t vi __attribute__((vector_size(16)));
typedef uint32_t vu __attribute__((vector_size(16)));
enum { VF = 4 };

INLINE vf vf_set1(float x) { return (vf){x, x, x, x}; }
INLINE vf vf_load(const float *p) {
    vf x;
    memcpy(&x, p, sizeof x);
    return x;
}
INLINE void vf_store(float *p, vf x) { memcpy(p, &x, sizeof x); }
INLINE vf vf_loadn(const float *p, int64_t n) {
    vf x = {0};
    for (int64_t i = 0; i < n; i++) x[i] = p[i];
    return x;
}
INLINE void vf_storen(float *p, vf x, int64_t n) {
    for (int64_t i = 0; i < n; i++) p[i] = x[i];
}
INLINE vf vf_add(vf a, vf b) { return a + b; }
INLINE vf vf_sub(vf a, vf b) { return a - b; }
INLINE vf vf_mul(vf a, vf b) { return a * b; }
INLINE vf vf_div(vf a, vf b) { return a / b; }
INLINE vf vf_fma(vf a, vf b, vf c) { return a * b + c; }
INLINE vf vf_if_less(vf a, vf b, vf x, vf y) {
    vi mask = a < b;
    return (vf)(((vi)x & mask) | ((vi)y & ~mask));
}
INLINE vf vf_max(vf a, vf b) { return vf_if_less(b, a, a, b); }
INLINE vf vf_min(vf a, vf b) { return vf_if_less(a, b, a, b); }
INLINE vf vf_abs(vf a) { return (vf)((vi)a & 0x7fffffff); }
INLINE vf vf_copysign(vf magnitude, vf sign) { return (vf)(((vu)magnitude & 0x7fffffffu) | ((vu)sign & 0x80000000u)); }
INLINE float vf_sum(vf a) { return (a[0] + a[2]) + (a[1] + a[3]); }
#define VF_MAGIC 12582912.0f /* 1.5 * 2^23: adding it leaves the nearest whole number in the low bits */
INLINE vf vf_round(vf a) { return (a + VF_MAGIC) - VF_MAGIC; } /* for |a| < 2^22 */
INLINE vf vf_scale(vf a, vf n) {
    vi whole = (vi)((vu)(n + VF_MAGIC) - 0x4b400000u), half = whole >> 1;
    vu first = ((vu)half + 127u) << 23, second = ((vu)whole - (vu)half + 127u) << 23;
    return a * (vf)first * (vf)second;
}

INLINE float f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = (h >> 10) & 31u, fraction = h & 0x3ffu, bits;
    float x;
    if (exponent == 0) { /* zero or subnormal: fraction * 2^-24 */
        x = (float)fraction * 0x1p-24f;
        memcpy(&bits, &x, 4);
    } else {
        bits = (exponent == 31 ? 255u : exponent + 112u) << 23 | fraction << 13;
    }
    bits |= sign;
    memcpy(&x, &bits, 4);
    return x;
}
INLINE uint16_t f16_from_f32(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    uint32_t sign = bits >> 16 & 0x8000u, size = bits & 0x7fffffffu;
    if (size > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | (size >> 13 & 0x3ffu));
    if (size >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* rounds past the largest */
    if (size < 0x38800000u) { /* subnormal: adding 0.5 rounds to steps of 2^-24 */
        memcpy(&x, &size, 4);
        x += 0.5f;
        memcpy(&bits, &x, 4);
        return (uint16_t)(sign | (bits - 0x3f000000u));
    }
    return (uint16_t)(sign | (size - 0x38000000u + 0xfffu + (size >> 13 & 1u)) >> 13);
}
INLINE vf vf_load_f16(const uint16_t *p) {
    return (vf){f16_to_f32(p[0]), f16_to_f32(p[1]), f16_to_f32(p[2]), f16_to_f32(p[3])};
}
INLINE void vf_store_f16(uint16_t *p, vf x) {
    for (int i = 0; i < VF; i++) p[i] = f16_from_f32(x[i]);
}
INLINE vf vf_load_bf16(const uint16_t *p) { return (vf)((vu){p[0], p[1], p[2], p[3]} << 16); }
INLINE vf vf_load_even(const uint16_t *p) {
    vu pairs;
    memcpy(&pairs, p, sizeof pairs);
    return (vf)(pairs << 16);
}
INLINE vf vf_load_odd(const uint16_t *p) {
    vu pairs;
    memcpy(&pairs, p, sizeof pairs);
    return (vf)(pairs & 0xffff0000u);
}
INLINE void vf_store_bf16(uint16_t *p, vf x) {
    vu bits = (vu)x;
    vu rounded = bits + (bits >> 16 & 1u) + 0x7fffu, nan = (vu)(x != x);
    rounded = ((bits | 0x400000u) & nan) | (rounded & ~nan);
    for (int i = 0; i < VF; i++) p[i] = (uint16_t)(rounded[i] >> 16);
}

#endif

INLINE vf vf_zero(void) { return vf_set1(0.0f); }

/* The sums of VF vectors, side by side. */
INLINE vf vf_sums(const vf *x) {
#if defined(RTP_ISA_AVX512)
    /* Halves, then quarters of two vectors side by side, until a vector has 16 sums. */
    vf half[8], quarter[4];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        half[i] = _mm512_add_ps(_mm512_shuffle_f32x4(x[i], x[i + 8], 0x44), _mm512_shuffle_f32x4(x[i], x[i + 8], 0xee));
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        quarter[i] = _mm512_add_ps(_mm512_shuffle_f32x4(half[i], half[i + 4], 0x88),
                                   _mm512_shuffle_f32x4(half[i], half[i + 4], 0xdd));
    vf a = _mm512_add_ps(_mm512_unpacklo_ps(quarter[0], quarter[1]), _mm512_unpackhi_ps(quarter[0], quarter[1]));
    vf b = _mm512_add_ps(_mm512_unpacklo_ps(quarter[2], quarter[3]), _mm512_unpackhi_ps(quarter[2], quarter[3]));
    vf sums = _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xee));
    return _mm512_shuffle_f32x4(sums, sums, 0xd8); /* quarters came as 0 2 1 3 */
#elif defined(RTP_ISA_AVX2)
    vf a = _mm256_hadd_ps(_mm256_hadd_ps(x[0], x[1]), _mm256_hadd_ps(x[2], x[3]));
    vf b = _mm256_hadd_ps(_mm256_hadd_ps(x[4], x[5]), _mm256_hadd_ps(x[6], x[7]));
    return _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
#else
    float sums[VF];
    for (int i = 0; i < VF; i++) sums[i] = vf_sum(x[i]);
    return vf_load(sums);
#endif
}

/* Sixteen floats: one column of 16 weight rows, whatever VF is. */
typedef struct {
    vf v[16 / VF];
} v16;

#define V16_EACH for (int i_ = 0; i_ < 16 / VF; i_++)
INLINE v16 v16_set1(float x) {
    v16 y;
    V16_EACH
        y.v[i_] = vf_set1(x);
    return y;
}
INLINE v16 v16_load(const float *p) {
    v16 y;
    V16_EACH
        y.v[i_] = vf_load(p + i_ * VF);
    return y;
}
INLINE v16 v16_load_f16(const uint16_t *p) {
    v16 y;
    V16_EACH
        y.v[i_] = vf_load_f16(p + i_ * VF);
    return y;
}
INLINE v16 v16_mul1(v16 a, float b) {
    V16_EACH
        a.v[i_] = vf_mul(a.v[i_], vf_set1(b));
    return a;
}
INLINE v16 v16_fma(v16 a, v16 b, v16 c) {
    V16_EACH
        c.v[i_] = vf_fma(a.v[i_], b.v[i_], c.v[i_]);
    return c;
}
INLINE v16 v16_zero(void) {
    v16 y;
    V16_EACH
        y.v[i_] = vf_zero();
    return y;
}
INLINE v16 v16_add(v16 a, v16 b) {
    V16_EACH
        a.v[i_] = vf_add(a.v[i_], b.v[i_]);
    return a;
}
INLINE v16 v16_fma1(v16 a, float b, v16 c) {
    V16_EACH
        c.v[i_] = vf_fma(a.v[i_], vf_set1(b), c.v[i_]);
    return c;
}
INLINE void v16_store(float *p, v16 a) {
    V16_EACH
        vf_store(p + i_ * VF, a.v[i_]);
}

#endif
