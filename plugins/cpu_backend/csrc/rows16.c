/* Plain weights to layout rows16, and rows of that to numbers. */

#include "plain.h"

/* ---- plain to rows16 ---- */

typedef struct {
    int scheme;
    uint8_t *out;
    rtp_cpu_plain plain;
    int64_t n, groups;
} pack_job;

/* Row r of a block: its scales and zeros, and its codes. `place`: its first group in the plain parts. */
static void pack_row(rows16_scheme s, const rtp_cpu_plain *p, uint8_t *block, int64_t r, int64_t place) {
    uint8_t *zeros = block + rows16_number_bytes(s), *lines = block + rows16_codes_at(s);
    for (int h = 0; h < rows16_halves(s); h++) {
        const uint8_t *codes = plain_codes(s, p, place + h);
        if (s.is_super) {
            block[ROWS * h + r] = ((const uint8_t *)p->scales)[place + h];
            if (s.is_asymmetric) zeros[r] = ((const uint8_t *)p->zeros)[place];
        } else {
            ((uint16_t *)block)[r] = plain_half(p, p->scales, place);
            if (s.is_asymmetric) ((uint16_t *)zeros)[r] = plain_half(p, p->zeros, place);
        }
        for (int i = 0; i < payload_bytes(s); i += 4) { /* of a row, four columns are neighbours in a line */
            uint8_t four[4];
            memcpy(four, codes + i, 4); /* a byte of plain nibbles has the very ones of one here */
            for (int c = 0; c < 4 && !s.is_nibbles; c++) four[c] = (uint8_t)(plain_code(s, codes, i + c) + 128);
            memcpy(lines + (h * s.group + i) / 4 * LINE + 4 * r, four, 4);
        }
    }
}

static void pack_blocks(void *argument, int64_t begin, int64_t end, void *scratch) {
    const pack_job *j = argument;
    rows16_scheme s = rows16_of(j->scheme);
    (void)scratch;
    for (int64_t u = begin; u < end; u++) { /* one block */
        int64_t group = u / j->groups, g = u % j->groups, rows = min64(ROWS, j->n - group * ROWS);
        uint8_t *block = j->out + group * rows16_group_bytes(s, j->groups) + rows16_block_at(s, g);
        uint16_t *factors = (uint16_t *)rows16_factors(s, block, g);
        memset(block, 0, (size_t)rows16_block_bytes(s));
        if (s.is_super && g % SUPER_GROUPS == 0) memset(factors, 0, (size_t)rows16_super_bytes(s));
        for (int64_t r = 0; r < rows; r++) {
            int64_t row = group * ROWS + r, super = (row * j->groups + g) / SUPER_GROUPS;
            pack_row(s, &j->plain, block, r, (row * j->groups + g) * rows16_halves(s));
            if (!s.is_super || g % SUPER_GROUPS) continue;
            factors[r] = j->plain.scale_factors[super];
            if (s.is_asymmetric) factors[ROWS + r] = j->plain.zero_factors[super];
        }
    }
}

int KERNEL(rows16_pack)(rtp_cpu_device *device, int scheme, uint8_t *out, const rtp_cpu_plain *plain, int64_t n,
                        int64_t k) {
    if (!is_scheme(scheme) || k % rows16_unit(rows16_of(scheme)) || !is_plain(rows16_of(scheme), plain))
        return RTP_CPU_BAD_ARGUMENT;
    pack_job j = {scheme, out, *plain, n, k / GROUP};
    rtp_pool_run(device->pool, pack_blocks, &j, div_up(n, ROWS) * j.groups, grain_for(ROWS * GROUP));
    return RTP_CPU_OK;
}

/* ---- rows16 to numbers ---- */

typedef struct {
    int scheme, dtype;
    void *out;
    const uint8_t *w;
    const int32_t *ids;
    int64_t groups, out_row;
} unpack_job;

INLINE float lane(v16 x, int64_t r) {
    float values[ROWS];
    v16_store(values, x);
    return values[r];
}

static void unpack_rows(void *argument, int64_t begin, int64_t end, void *scratch) {
    const unpack_job *j = argument;
    rows16_scheme s = rows16_of(j->scheme);
    int too_large = s.is_nibbles ? s.offset : 128;
    (void)scratch;
    for (int64_t t = begin; t < end; t++) {
        int64_t row = j->ids ? j->ids[t] : t, r = row % ROWS;
        const uint8_t *group = j->w + row / ROWS * rows16_group_bytes(s, j->groups);
        for (int64_t g = 0; g < j->groups; g++) {
            const uint8_t *block = group + rows16_block_at(s, g), *p = block + rows16_codes_at(s) + 4 * r;
            float values[GROUP], zero = s.is_asymmetric ? lane(rows16_zero(s, block, g), r) : 0;
            for (int h = 0; h < rows16_halves(s); h++) {
                float scale = lane(rows16_scale(s, block, g, h), r);
                for (int i = h * s.group; i < (h + 1) * s.group; i++) {
                    int code = s.is_nibbles && i >= GROUP / 2 ? p[(i / 4 - LINES / 2) * LINE + i % 4] >> 4
                                                              : p[i / 4 * LINE + i % 4];
                    if (s.is_nibbles) code &= 15;
                    values[i] = scale * (float)(code - too_large) + zero;
                }
            }
            store_f32(j->dtype, at_mut(j->out, j->dtype, t * j->out_row + g * GROUP), GROUP, values);
        }
    }
}

int KERNEL(rows16_unpack)(rtp_cpu_device *device, int scheme, int dtype, void *out, const uint8_t *w,
                          const int32_t *ids, int64_t count, int64_t n, int64_t k, int64_t out_row) {
    if (!is_scheme(scheme) || !is_dtype(dtype) || k % rows16_unit(rows16_of(scheme))) return RTP_CPU_BAD_ARGUMENT;
    if (!rows_are_valid(ids, count, n)) return RTP_CPU_OUT_OF_RANGE;
    unpack_job j = {scheme, dtype, out, w, ids, k / GROUP, out_row};
    rtp_pool_run(device->pool, unpack_rows, &j, count, grain_for(2 * k));
    return RTP_CPU_OK;
}
