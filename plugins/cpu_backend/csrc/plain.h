/* The plain layout of quantized weights, see rtp_cpu_plain, and the numbers that its codes stand for. */

#ifndef RTP_CPU_PLAIN_H
#define RTP_CPU_PLAIN_H

#include "rows16.h"

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

INLINE int64_t payload_bytes(rows16_scheme s) { return s.is_nibbles ? s.group / 2 : s.group; }

/* Whether the parts that the scheme has are there, and no others. */
INLINE int is_plain(rows16_scheme s, const rtp_cpu_plain *p) {
    return !p->zeros == !s.is_asymmetric && !p->scale_factors == !s.is_super &&
           !p->zero_factors == !(s.is_super && s.is_asymmetric) &&
           (!p->block_bytes || (!s.is_super && p->block_bytes >= payload_bytes(s) + 2 * (1 + s.is_asymmetric)));
}

/* Of group `place`, counted over all rows: its codes, and its f16 scale or zero in schemes without super-groups. */
INLINE const uint8_t *plain_codes(rows16_scheme s, const rtp_cpu_plain *p, int64_t place) {
    return p->payload + place * (p->block_bytes ? p->block_bytes : payload_bytes(s));
}
INLINE uint16_t plain_half(const rtp_cpu_plain *p, const void *numbers, int64_t place) {
    uint16_t half;
    memcpy(&half, (const uint8_t *)numbers + place * (p->block_bytes ? p->block_bytes : 2), 2);
    return half;
}

/* scale and zero of group `place`: value = scale * (code - offset) + zero. */
INLINE float plain_scale(rows16_scheme s, const rtp_cpu_plain *p, int64_t place) {
    if (!s.is_super) return from_f16(plain_half(p, p->scales, place));
    float number = s.is_asymmetric ? (float)((const uint8_t *)p->scales)[place] : (float)((const int8_t *)p->scales)[place];
    return from_f16(p->scale_factors[place * s.group / (GROUP * SUPER_GROUPS)]) * number;
}
INLINE float plain_zero(rows16_scheme s, const rtp_cpu_plain *p, int64_t place) {
    if (!s.is_asymmetric) return 0;
    if (!s.is_super) return from_f16(plain_half(p, p->zeros, place));
    return from_f16(p->zero_factors[place * s.group / (GROUP * SUPER_GROUPS)]) * (float)((const uint8_t *)p->zeros)[place];
}

/* The code of element i of a group, less the offset. */
INLINE int plain_code(rows16_scheme s, const uint8_t *codes, int i) {
    if (s.bits == 8) return (int8_t)codes[i];
    if (!s.is_nibbles) return codes[i] - s.offset;
    return (i < s.group / 2 ? codes[i] & 15 : codes[i - s.group / 2] >> 4) - s.offset;
}

#endif
