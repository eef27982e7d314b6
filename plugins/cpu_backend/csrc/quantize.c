/* Numbers to plain quantized groups and back.

   Source: the scales of Q4_0 to Q8_0 are those of llama.cpp's quantize_row_*_ref functions. In the K schemes a group's
   step and minimum are rounded to 63rds (Q6_K: 128ths) of the largest of its super-group. */

#include <math.h>

#include "plain.h"

enum { MAX_GROUPS = 16 }; /* of a super-group */

/* The nearest whole number in [low, high]; NaN gives low. */
INLINE int nearest(float x, int low, int high) {
    float r = rintf(x);
    return r > (float)low ? (r < (float)high ? (int)r : high) : low;
}

typedef struct {
    int scheme, dtype;
    rtp_cpu_plain plain;
    const void *x;
    int64_t k, x_row;
} quantize_job;

typedef struct {
    float step, low;
} range;

/* What a group spans: in symmetric schemes a step that takes its extreme to the lowest code, else from the minimum. */
static range range_of(rows16_scheme s, const float *x) {
    float low = x[0], high = x[0];
    int most = (1 << s.bits) - 1;
    for (int i = 1; i < s.group; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    if (s.bits == 8) return (range){(-low > high ? -low : high) / 127.0f, 0};
    if (!s.is_asymmetric) return (range){(-low >= high ? low : high) / (float)-s.offset, 0};
    if (s.is_super && low > 0) low = 0; /* zeros are negative minima */
    return (range){(high - low) / (float)most, low};
}

/* x in multiples of a factor, rounded to [extreme, other], whichever of them is larger. */
INLINE uint8_t whole(float x, uint16_t f16_factor, int extreme, int other) {
    float factor = from_f16(f16_factor), inverse = factor == 0 ? 0 : 1 / factor;
    return (uint8_t)nearest(x * inverse, extreme < other ? extreme : other, extreme < other ? other : extreme);
}

static void store_codes(rows16_scheme s, const float *x, float step, float zero, uint8_t *codes) {
    float inverse = step == 0 ? 0 : 1 / step;
    int least = s.bits == 8 ? -127 : -s.offset, most = s.bits == 8 ? 127 : (1 << s.bits) - 1 - s.offset;
    for (int i = 0; i < s.group; i++) {
        int code = nearest((x[i] - zero) * inverse, least, most) + s.offset;
        if (!s.is_nibbles || i < s.group / 2) codes[i] = (uint8_t)code;
        else codes[i - s.group / 2] |= (uint8_t)(code << 4);
    }
}

/* One unit: a group, or all groups of a super-group. `place`: its first group. */
static void quantize_unit(const quantize_job *j, rows16_scheme s, const float *x, int64_t place) {
    const rtp_cpu_plain *p = &j->plain;
    int groups = s.is_super ? GROUP * SUPER_GROUPS / s.group : 1;
    range ranges[MAX_GROUPS];
    float step = 0, low = 0;
    for (int g = 0; g < groups; g++) {
        ranges[g] = range_of(s, x + g * s.group);
        if (fabsf(ranges[g].step) > fabsf(step)) step = ranges[g].step;
        if (ranges[g].low < low) low = ranges[g].low;
    }
    int extreme = s.is_asymmetric ? 63 : -128, other = s.is_asymmetric ? 0 : 127; /* of whole scales */
    if (s.is_super) p->scale_factors[place / groups] = to_f16(step / (float)extreme);
    if (s.is_super && s.is_asymmetric) p->zero_factors[place / groups] = to_f16(low / (float)extreme);
    for (int g = 0; g < groups; g++) {
        int64_t at = place + g;
        if (s.is_super) {
            ((uint8_t *)p->scales)[at] = whole(ranges[g].step, p->scale_factors[place / groups], extreme, other);
            if (s.is_asymmetric)
                ((uint8_t *)p->zeros)[at] = whole(ranges[g].low, p->zero_factors[place / groups], extreme, other);
            store_codes(s, x + g * s.group, plain_scale(s, p, at), plain_zero(s, p, at), p->payload + at * payload_bytes(s));
        } else {
            ((uint16_t *)p->scales)[at] = to_f16(ranges[g].step);
            if (s.is_asymmetric) ((uint16_t *)p->zeros)[at] = to_f16(ranges[g].low);
            store_codes(s, x, ranges[g].step, ranges[g].low, p->payload + at * payload_bytes(s));
        }
    }
}

static void quantize_rows(void *argument, int64_t begin, int64_t end, void *scratch) {
    const quantize_job *j = argument;
    rows16_scheme s = rows16_of(j->scheme);
    int64_t unit = s.is_super ? GROUP * SUPER_GROUPS : s.group;
    (void)scratch;
    for (int64_t row = begin; row < end; row++) {
        for (int64_t i = 0; i < j->k; i += unit) {
            float tile[GROUP * SUPER_GROUPS];
            const float *x = tile_in(j->dtype, at(j->x, j->dtype, row * j->x_row + i), unit, tile);
            quantize_unit(j, s, x, (row * j->k + i) / s.group);
        }
    }
}

int KERNEL(quantize)(rtp_cpu_device *device, int scheme, int dtype, const rtp_cpu_plain *plain, const void *x,
                     int64_t n, int64_t k, int64_t x_row) {
    if (!is_scheme(scheme) || !is_dtype(dtype) || k % rows16_unit(rows16_of(scheme)) ||
        !is_plain(rows16_of(scheme), plain) || plain->block_bytes)
        return RTP_CPU_BAD_ARGUMENT;
    quantize_job j = {scheme, dtype, *plain, x, k, x_row};
    rtp_pool_run(device->pool, quantize_rows, &j, n, grain_for(4 * k));
    return RTP_CPU_OK;
}

/* ---- back to numbers ---- */

typedef struct {
    int scheme, dtype;
    void *out;
    rtp_cpu_plain plain;
    const int32_t *ids;
    int64_t k, out_row;
} dequantize_job;

static void dequantize_rows(void *argument, int64_t begin, int64_t end, void *scratch) {
    const dequantize_job *j = argument;
    rows16_scheme s = rows16_of(j->scheme);
    (void)scratch;
    for (int64_t t = begin; t < end; t++) {
        int64_t groups = j->k / s.group, first = (j->ids ? j->ids[t] : t) * groups;
        for (int64_t g = 0; g < groups; g++) {
            float values[GROUP], scale = plain_scale(s, &j->plain, first + g), zero = plain_zero(s, &j->plain, first + g);
            const uint8_t *codes = plain_codes(s, &j->plain, first + g);
            for (int i = 0; i < s.group; i++) values[i] = scale * (float)plain_code(s, codes, i) + zero;
            store_f32(j->dtype, at_mut(j->out, j->dtype, t * j->out_row + g * s.group), s.group, values);
        }
    }
}

int KERNEL(dequantize)(rtp_cpu_device *device, int scheme, int dtype, void *out, const rtp_cpu_plain *plain,
                       const int32_t *ids, int64_t count, int64_t n, int64_t k, int64_t out_row) {
    if (!is_scheme(scheme) || !is_dtype(dtype) || k % rows16_unit(rows16_of(scheme)) ||
        !is_plain(rows16_of(scheme), plain))
        return RTP_CPU_BAD_ARGUMENT;
    if (!rows_are_valid(ids, count, n)) return RTP_CPU_OUT_OF_RANGE;
    dequantize_job j = {scheme, dtype, out, *plain, ids, k, out_row};
    rtp_pool_run(device->pool, dequantize_rows, &j, count, grain_for(2 * k));
    return RTP_CPU_OK;
}
