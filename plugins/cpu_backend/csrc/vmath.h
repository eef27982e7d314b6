/* Elementary functions on vectors, in f32. NaN goes through; infinities give the limits.

   Relative errors (measured against double): exp below 2e-7, tanh and sigmoid below 4e-7, erf below 4e-7. */

#ifndef RTP_CPU_VMATH_H
#define RTP_CPU_VMATH_H

#include "simd.h"

/* exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln(2) / 2; exp(r) by its Taylor series (remainder 6e-9).
   Overflows to inf above 88.73 and goes to 0 below -103.98. */
INLINE vf vf_exp(vf x) {
    x = vf_min(vf_set1(89.0f), vf_max(vf_set1(-104.0f), x));
    vf n = vf_round(vf_mul(x, vf_set1(0x1.715476p+0f)));
    vf r = vf_fma(n, vf_set1(-0x1.62e4p-1f), x); /* ln 2 in two parts: n times the first is exact */
    r = vf_fma(n, vf_set1(-0x1.7f7d1cp-20f), r);
    vf y = vf_set1(1.0f / 5040);
    y = vf_fma(y, r, vf_set1(1.0f / 720));
    y = vf_fma(y, r, vf_set1(1.0f / 120));
    y = vf_fma(y, r, vf_set1(1.0f / 24));
    y = vf_fma(y, r, vf_set1(1.0f / 6));
    y = vf_fma(y, r, vf_set1(0.5f));
    y = vf_fma(y, r, vf_set1(1.0f));
    y = vf_fma(y, r, vf_set1(1.0f));
    return vf_scale(y, n);
}

/* 2^x for x from -126 to 126: 2^n times a polynomial of least relative error (9.2e-8) in r = x - n, n = round(x). Exact
   where x is whole. */
INLINE vf vf_exp2_within(vf x) {
    vf n = vf_round(x), r = vf_sub(x, n);
    vf y = vf_set1(1.3264727e-3f);
    y = vf_fma(y, r, vf_set1(9.6715127e-3f));
    y = vf_fma(y, r, vf_set1(5.5507337e-2f));
    y = vf_fma(y, r, vf_set1(2.4022242e-1f));
    y = vf_fma(y, r, vf_set1(6.9314698e-1f));
    y = vf_fma(y, r, vf_set1(1.0f));
    return vf_scale(y, n);
}

/* The same within 2.9e-6, for results of few bits. */
INLINE vf vf_exp2_near(vf x) {
    vf n = vf_round(x), r = vf_sub(x, n);
    vf y = vf_set1(9.5828532e-3f);
    y = vf_fma(y, r, vf_set1(5.5906425e-2f));
    y = vf_fma(y, r, vf_set1(2.4024099e-1f));
    y = vf_fma(y, r, vf_set1(6.9312419e-1f));
    y = vf_fma(y, r, vf_set1(1.0f));
    return vf_scale(y, n);
}

INLINE vf vf_sigmoid(vf x) {
    vf one = vf_set1(1.0f);
    return vf_div(one, vf_add(one, vf_exp(vf_sub(vf_zero(), x))));
}

/* Near 0 a polynomial in x^2, as 1 - 2 / (exp(2|x|) + 1) would cancel there. */
INLINE vf vf_tanh(vf x) {
    vf size = vf_abs(x), one = vf_set1(1.0f), s = vf_mul(x, x);
    vf p = vf_set1(0.0022493263f);
    p = vf_fma(p, s, vf_set1(-0.0083051119f));
    p = vf_fma(p, s, vf_set1(0.021756932f));
    p = vf_fma(p, s, vf_set1(-0.053957775f));
    p = vf_fma(p, s, vf_set1(0.13333297f));
    p = vf_fma(p, s, vf_set1(-0.33333334f));
    vf near = vf_fma(vf_mul(x, s), p, x);
    vf far = vf_sub(one, vf_div(vf_set1(2.0f), vf_add(vf_exp(vf_add(size, size)), one)));
    return vf_if_less(size, vf_set1(0.625f), near, vf_copysign(far, x));
}

/* Below 1 a polynomial in x^2; above, 1 - exp(polynomial), fitted to log(erfc) on [1, 4]. */
INLINE vf vf_erf(vf x) {
    vf size = vf_min(vf_set1(4.0f), vf_abs(x)), s = vf_mul(x, x);
    vf p = vf_set1(-9.6735903e-06f);
    p = vf_fma(p, s, vf_set1(0.00011268254f));
    p = vf_fma(p, s, vf_set1(-0.00084843964f));
    p = vf_fma(p, s, vf_set1(0.0052210535f));
    p = vf_fma(p, s, vf_set1(-0.026865438f));
    p = vf_fma(p, s, vf_set1(0.11283783f));
    p = vf_fma(p, s, vf_set1(-0.37612638f));
    p = vf_fma(p, s, vf_set1(1.1283792f));
    vf q = vf_set1(1.6140616e-06f);
    q = vf_fma(q, size, vf_set1(-4.5590623e-05f));
    q = vf_fma(q, size, vf_set1(0.00059276953f));
    q = vf_fma(q, size, vf_set1(-0.0047402224f));
    q = vf_fma(q, size, vf_set1(0.026364718f));
    q = vf_fma(q, size, vf_set1(-0.10997824f));
    q = vf_fma(q, size, vf_set1(-0.63193709f));
    q = vf_fma(q, size, vf_set1(-1.1301666f));
    q = vf_fma(q, size, vf_set1(0.00030321299f));
    vf far = vf_sub(vf_set1(1.0f), vf_exp(q));
    return vf_if_less(size, vf_set1(1.0f), vf_mul(x, p), vf_copysign(far, x));
}

/* gelu within 1e-4, for results of few bits: Phi(x) - 1/2 as an odd polynomial on [-4.2, 4.2], where it is 1/2. */
INLINE vf vf_gelu_near(vf x) {
    vf y = vf_min(vf_set1(4.2f), vf_max(vf_set1(-4.2f), x)), s = vf_mul(y, y);
    vf p = vf_set1(-9.0178892e-10f);
    p = vf_fma(p, s, vf_set1(7.9415756e-08f));
    p = vf_fma(p, s, vf_set1(-3.0379945e-06f));
    p = vf_fma(p, s, vf_set1(6.6891575e-05f));
    p = vf_fma(p, s, vf_set1(-0.00095066428f));
    p = vf_fma(p, s, vf_set1(0.0092982585f));
    p = vf_fma(p, s, vf_set1(-0.065528259f));
    p = vf_fma(p, s, vf_set1(0.3984659f));
    return vf_mul(x, vf_fma(y, p, vf_set1(0.5f)));
}

INLINE vf vf_activate(int kind, vf x) {
    vf half = vf_mul(x, vf_set1(0.5f));
    switch (kind) {
        case RTP_CPU_GELU: return vf_fma(half, vf_erf(vf_mul(x, vf_set1(0.70710678f))), half);
        case RTP_CPU_GELU_TANH: {
            vf inner = vf_mul(x, vf_fma(vf_mul(x, x), vf_set1(0.79788456f * 0.044715f), vf_set1(0.79788456f)));
            return vf_fma(half, vf_tanh(inner), half);
        }
        case RTP_CPU_RELU: return vf_max(vf_zero(), x);
        case RTP_CPU_SIGMOID: return vf_sigmoid(x);
        case RTP_CPU_SILU: return vf_mul(x, vf_sigmoid(x));
        default: return vf_tanh(x);
    }
}

#endif
