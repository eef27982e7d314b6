/* Numbers to quantized groups of 32 and back, in two layouts.

   Plain: per row and group the codes (4 bits: byte i holds code i low and code 16 + i high; 8 bits: int8), one f16
   scale and, for asymmetric schemes, one f16 zero. rows16: see rows16.h.
   Source: the scales are those of llama.cpp's quantize_row_q4_0_ref, _q4_1_ref and _q8_0_ref. */

#include <math.h>

#include "rows16.h"

INLINE int64_t payload_bytes(int scheme) { return scheme == RTP_CPU_Q8_0 ? 32 : 16; }

INLINE uint16_t to_f16(float x) {
    uint16_t lanes[VF];
    vf_store_f16(lanes, vf_set1(x));
    return lanes[0];
}
INLINE float from_f16(uint16_t x) {
    float y;
    load_f32(RTP_CPU_F16, &x, 1, &y);
    return y;
}

/* The nearest whole number in [low, high]; NaN gives low. */
INLINE int nearest(float x, int low, int high) {
    float r = rintf(x);
    return r > (float)low ? (r < (float)high ? (int)r : high) : low;
}

typedef struct {
    int scheme, dtype;
    uint8_t *payload;
    uint16_t *scales, *zeros;
    const void *x;
    int64_t groups, x_row;
} quantize_job;

static void quantize_group(int scheme, const float *x, uint8_t *codes, uint16_t *scale, uint16_t *zero) {
    float low = x[0], high = x[0], step, base = 0;
    for (int i = 1; i < GROUP; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    if (scheme == RTP_CPU_Q4_1) {
        step = (high - low) / 15.0f;
        base = low;
        *zero = to_f16(low);
    } else if (scheme == RTP_CPU_Q4_0) {
        step = (-low >= high ? low : high) / -8.0f;
    } else {
        step = (-low > high ? -low : high) / 127.0f;
    }
    float inverse = step == 0 ? 0 : 1 / step;
    *scale = to_f16(step);
    for (int i = 0; i < GROUP; i++) {
        float y = (x[i] - base) * inverse;
        if (scheme == RTP_CPU_Q8_0) {
            codes[i] = (uint8_t)nearest(y, -127, 127);
            continue;
        }
        int code = scheme == RTP_CPU_Q4_0 ? nearest(y, -8, 7) + 8 : nearest(y, 0, 15);
        if (i < GROUP / 2) codes[i] = (uint8_t)code;
        else codes[i - GROUP / 2] |= (uint8_t)(code << 4);
    }
}

static void quantize_rows(void *argument, int64_t begin, int64_t end, void *scratch) {
    const quantize_job *j = argument;
    (void)scratch;
    for (int64_t row = begin; row < end; row++) {
        for (int64_t g = 0; g < j->groups; g++) {
            float tile[GROUP];
            int64_t place = row * j->groups + g;
            const float *x = tile_in(j->dtype, at(j->x, j->dtype, row * j->x_row + g * GROUP), GROUP, tile);
            quantize_group(j->scheme, x, j->payload + place * payload_bytes(j->scheme), j->scales + place,
                           j->zeros ? j->zeros + place : NULL);
        }
    }
}

int KERNEL(quantize)(rtp_cpu_device *device, int scheme, int dtype, uint8_t *payload, uint16_t *scales, uint16_t *zeros,
                     const void *x, int64_t n, int64_t k, int64_t x_row) {
    if (!is_scheme(scheme) || !is_dtype(dtype) || k % GROUP || (scheme == RTP_CPU_Q4_1) != (zeros != NULL))
        return RTP_CPU_BAD_ARGUMENT;
    quantize_job j = {scheme, dtype, payload, scales, zeros, x, k / GROUP, x_row};
    rtp_pool_run(device->pool, quantize_rows, &j, n, grain_for(4 * k));
    return RTP_CPU_OK;
}

/* ---- back to numbers ---- */

typedef struct {
    int scheme, dtype;
    void *out;
    const uint8_t *codes; /* payload, or all of a rows16 weight */
    const uint16_t *scales, *zeros;
    const int32_t *ids;
    int64_t groups, out_row;
} unpack_job;

/* values = scale * (code - offset) + zero, for unsigned codes. */
static void store_group(const unpack_job *j, int64_t t, int64_t g, const uint8_t *codes, float scale, float zero) {
    rows16_scheme s = rows16_of(j->scheme);
    float values[GROUP];
    for (int i = 0; i < GROUP; i++) {
        values[i] = scale * (float)(codes[i] - s.offset);
        if (s.is_asymmetric) values[i] += zero;
    }
    store_f32(j->dtype, at_mut(j->out, j->dtype, t * j->out_row + g * GROUP), GROUP, values);
}

static void unpack_plain(void *argument, int64_t begin, int64_t end, void *scratch) {
    const unpack_job *j = argument;
    (void)scratch;
    for (int64_t t = begin; t < end; t++) {
        for (int64_t g = 0; g < j->groups; g++) {
            int64_t place = (j->ids ? j->ids[t] : t) * j->groups + g;
            const uint8_t *p = j->codes + place * payload_bytes(j->scheme);
            uint8_t codes[GROUP];
            for (int i = 0; i < GROUP; i++) {
                if (j->scheme == RTP_CPU_Q8_0) codes[i] = p[i] ^ 0x80;
                else codes[i] = i < GROUP / 2 ? p[i] & 15 : p[i - GROUP / 2] >> 4;
            }
            store_group(j, t, g, codes, from_f16(j->scales[place]), j->zeros ? from_f16(j->zeros[place]) : 0);
        }
    }
}

static void unpack_rows16(void *argument, int64_t begin, int64_t end, void *scratch) {
    const unpack_job *j = argument;
    rows16_scheme s = rows16_of(j->scheme);
    (void)scratch;
    for (int64_t t = begin; t < end; t++) {
        int64_t row = j->ids ? j->ids[t] : t, r = row % ROWS;
        const uint8_t *block = j->codes + row / ROWS * j->groups * s.block_bytes;
        for (int64_t g = 0; g < j->groups; g++, block += s.block_bytes) {
            const uint16_t *f16 = (const uint16_t *)block;
            const uint8_t *p = block + s.codes_at + 4 * r;
            uint8_t codes[GROUP];
            for (int i = 0; i < GROUP; i++) {
                if (s.bits == 8) codes[i] = p[i / 4 * 64 + i % 4];
                else codes[i] = i < GROUP / 2 ? p[i / 4 * 64 + i % 4] & 15 : p[(i / 4 - 4) * 64 + i % 4] >> 4;
            }
            store_group(j, t, g, codes, from_f16(f16[r]), s.is_asymmetric ? from_f16(f16[ROWS + r]) : 0);
        }
    }
}

static int unpack(rtp_cpu_device *device, rtp_task task, unpack_job *j, int64_t count, int64_t n) {
    if (!is_scheme(j->scheme) || !is_dtype(j->dtype)) return RTP_CPU_BAD_ARGUMENT;
    if (!j->ids && count > n) return RTP_CPU_OUT_OF_RANGE;
    for (int64_t t = 0; j->ids && t < count; t++)
        if (j->ids[t] < 0 || j->ids[t] >= n) return RTP_CPU_OUT_OF_RANGE;
    rtp_pool_run(device->pool, task, j, count, grain_for(2 * j->groups * GROUP));
    return RTP_CPU_OK;
}

int KERNEL(dequantize)(rtp_cpu_device *device, int scheme, int dtype, void *out, const uint8_t *payload,
                       const uint16_t *scales, const uint16_t *zeros, const int32_t *ids, int64_t count, int64_t n,
                       int64_t k, int64_t out_row) {
    if (k % GROUP || (scheme == RTP_CPU_Q4_1) != (zeros != NULL)) return RTP_CPU_BAD_ARGUMENT;
    unpack_job j = {scheme, dtype, out, payload, scales, zeros, ids, k / GROUP, out_row};
    return unpack(device, unpack_plain, &j, count, n);
}

int KERNEL(rows16_unpack)(rtp_cpu_device *device, int scheme, int dtype, void *out, const uint8_t *w,
                          const int32_t *ids, int64_t count, int64_t n, int64_t k, int64_t out_row) {
    if (k % GROUP) return RTP_CPU_BAD_ARGUMENT;
    unpack_job j = {scheme, dtype, out, w, NULL, NULL, ids, k / GROUP, out_row};
    return unpack(device, unpack_rows16, &j, count, n);
}

/* ---- plain to rows16 ---- */

typedef struct {
    int scheme;
    uint8_t *out;
    const uint8_t *payload;
    const uint16_t *scales, *zeros;
    int64_t n, groups;
} pack_job;

static void pack_groups(void *argument, int64_t begin, int64_t end, void *scratch) {
    const pack_job *j = argument;
    rows16_scheme s = rows16_of(j->scheme);
    int64_t bytes = payload_bytes(j->scheme);
    (void)scratch;
    for (int64_t u = begin; u < end; u++) { /* one block */
        uint8_t *block = j->out + u * s.block_bytes;
        uint16_t *f16 = (uint16_t *)block;
        memset(block, 0, (size_t)s.block_bytes);
        for (int64_t r = 0; r < min64(ROWS, j->n - u / j->groups * ROWS); r++) {
            int64_t place = (u / j->groups * ROWS + r) * j->groups + u % j->groups;
            const uint8_t *p = j->payload + place * bytes;
            f16[r] = j->scales[place];
            if (s.is_asymmetric) f16[ROWS + r] = j->zeros[place];
            for (int64_t i = 0; i < bytes; i++) /* a byte of plain 4-bit codes has the very nibbles of one here */
                block[s.codes_at + i / 4 * 64 + 4 * r + i % 4] = s.bits == 8 ? p[i] ^ 0x80 : p[i];
        }
    }
}

int KERNEL(rows16_pack)(rtp_cpu_device *device, int scheme, uint8_t *out, const uint8_t *payload,
                        const uint16_t *scales, const uint16_t *zeros, int64_t n, int64_t k) {
    if (!is_scheme(scheme) || k % GROUP || (scheme == RTP_CPU_Q4_1) != (zeros != NULL)) return RTP_CPU_BAD_ARGUMENT;
    pack_job j = {scheme, out, payload, scales, zeros, n, k / GROUP};
    rtp_pool_run(device->pool, pack_groups, &j, div_up(n, ROWS) * j.groups, grain_for(ROWS * GROUP));
    return RTP_CPU_OK;
}
