/* Rows of any float dtype seen as short tiles of f32: kernels compute on tiles and know one type. */

#ifndef RTP_CPU_TILE_H
#define RTP_CPU_TILE_H

#include "simd.h"

enum { TILE = 512 }; /* elements; three tiles on the stack stay in the first cache */

INLINE int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }
INLINE int64_t div_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

INLINE int is_dtype(int dtype) { return dtype >= RTP_CPU_F32 && dtype <= RTP_CPU_BF16; }
INLINE int64_t dtype_bytes(int dtype) { return dtype == RTP_CPU_F32 ? 4 : 2; }

/* Whether `ids` [count], or 0..count-1 where it is NULL, are rows of a table of n. */
INLINE int rows_are_valid(const int32_t *ids, int64_t count, int64_t n) {
    if (!ids) return count <= n;
    for (int64_t t = 0; t < count; t++)
        if (ids[t] < 0 || ids[t] >= n) return 0;
    return 1;
}

/* The address of element i. */
INLINE const void *at(const void *p, int dtype, int64_t i) { return (const char *)p + i * dtype_bytes(dtype); }
INLINE void *at_mut(void *p, int dtype, int64_t i) { return (char *)p + i * dtype_bytes(dtype); }

INLINE void load_f32(int dtype, const void *src, int64_t n, float *dst) {
    const uint16_t *s = src;
    int64_t i = 0;
    if (dtype == RTP_CPU_F32) {
        memcpy(dst, src, (size_t)n * 4);
    } else {
        for (; i + VF <= n; i += VF) vf_store(dst + i, dtype == RTP_CPU_F16 ? vf_load_f16(s + i) : vf_load_bf16(s + i));
        if (i < n) {
            uint16_t rest[VF] = {0};
            memcpy(rest, s + i, (size_t)min64(VF, n - i) * 2);
            vf_storen(dst + i, dtype == RTP_CPU_F16 ? vf_load_f16(rest) : vf_load_bf16(rest), n - i);
        }
    }
}

INLINE void store_f32(int dtype, void *dst, int64_t n, const float *src) {
    uint16_t *d = dst;
    if (dtype == RTP_CPU_F32) {
        if (dst != (const void *)src) memcpy(dst, src, (size_t)n * 4);
        return;
    }
    for (int64_t i = 0; i < n; i += VF) {
        uint16_t part[VF];
        vf x = n - i >= VF ? vf_load(src + i) : vf_loadn(src + i, n - i);
        if (dtype == RTP_CPU_F16) vf_store_f16(part, x);
        else vf_store_bf16(part, x);
        memcpy(d + i, part, (size_t)min64(VF, n - i) * 2);
    }
}

/* n <= TILE elements as f32: in place where they are f32 already, else converted into `tile`. */
INLINE const float *tile_in(int dtype, const void *src, int64_t n, float *tile) {
    if (dtype == RTP_CPU_F32) return src;
    load_f32(dtype, src, n, tile);
    return tile;
}
/* Where to compute n <= TILE elements of dst; tile_done then stores them. */
INLINE float *tile_out(int dtype, void *dst, float *tile) { return dtype == RTP_CPU_F32 ? (float *)dst : tile; }
INLINE void tile_done(int dtype, void *dst, int64_t n, const float *tile) {
    if (dtype != RTP_CPU_F32) store_f32(dtype, dst, n, tile);
}

/* values[0..n) + bias, where there is one, as dtype; n <= TILE. The values are written over. */
INLINE void store_biased(int dtype, void *dst, int bias_dtype, const void *bias, int64_t n, float *values) {
    float tile[TILE];
    if (bias) {
        const float *added = tile_in(bias_dtype, bias, n, tile);
        for (int64_t i = 0; i < n; i++) values[i] += added[i];
    }
    store_f32(dtype, dst, n, values);
}

/* `body` over the vectors [i, i + n) of a tile of `count` elements; LOAD and STORE honour a last short one. */
#define LOAD(p) (n_ == VF ? vf_load((p) + i_) : vf_loadn((p) + i_, n_))
#define STORE(p, x) (n_ == VF ? vf_store((p) + i_, (x)) : vf_storen((p) + i_, (x), n_))
#define FOR_VECTORS(count)                                \
    for (int64_t i_ = 0, n_ = VF; i_ < (count); i_ += VF) \
        if ((n_ = min64(VF, (count) - i_)), 1)

/* sum of a[i] * b[i], in four chains. */
INLINE float dot_f32(const float *a, const float *b, int64_t n) {
    vf s0 = vf_zero(), s1 = s0, s2 = s0, s3 = s0;
    int64_t i = 0;
    for (; i + 4 * VF <= n; i += 4 * VF) {
        s0 = vf_fma(vf_load(a + i), vf_load(b + i), s0);
        s1 = vf_fma(vf_load(a + i + VF), vf_load(b + i + VF), s1);
        s2 = vf_fma(vf_load(a + i + 2 * VF), vf_load(b + i + 2 * VF), s2);
        s3 = vf_fma(vf_load(a + i + 3 * VF), vf_load(b + i + 3 * VF), s3);
    }
    for (; i + VF <= n; i += VF) s0 = vf_fma(vf_load(a + i), vf_load(b + i), s0);
    if (i < n) s1 = vf_fma(vf_loadn(a + i, n - i), vf_loadn(b + i, n - i), s1);
    return vf_sum(vf_add(vf_add(s0, s1), vf_add(s2, s3)));
}

/* The larger of `top` and every x[i] that is not NaN. */
INLINE float tile_max(const float *x, int64_t n, float top) {
    float lanes[VF];
    vf m = vf_set1(top);
    int64_t i = 0;
    for (; i + VF <= n; i += VF) m = vf_max(vf_load(x + i), m);
    vf_store(lanes, m);
    for (int l = 0; l < VF; l++) top = lanes[l] > top ? lanes[l] : top;
    for (; i < n; i++) top = x[i] > top ? x[i] : top;
    return top;
}

#ifndef RTP_WORTH_A_THREAD /* f32 operations; tests find fewer worth it */
#define RTP_WORTH_A_THREAD 32768
#endif

/* Items a piece of work must have to be worth a second thread, where one item costs about `cost` f32 operations. */
INLINE int64_t grain_for(int64_t cost) { return max64(1, RTP_WORTH_A_THREAD / max64(1, cost)); }

#endif
