/* Plain bf16 weights to layout pairs16, and rows of that to numbers. */

#include "pairs16.h"

typedef struct {
    const uint16_t *b;
    uint16_t *out;
    int64_t n, k, b_row;
} pack_job;

static void pack_groups(void *argument, int64_t begin, int64_t end, void *scratch) {
    const pack_job *j = argument;
    (void)scratch;
    for (int64_t group = begin; group < end; group++) {
        const int64_t rows = min64(PAIR_ROWS, j->n - group * PAIR_ROWS);
        const uint16_t *b = j->b + group * PAIR_ROWS * j->b_row;
        uint16_t *lines = j->out + group * pairs16_group(j->k);
        if (rows < PAIR_ROWS || j->k % 2) memset(lines, 0, (size_t)pairs16_group(j->k) * 2);
        for (int64_t k = 0; k < j->k; k += TILE) /* of whose lines the first cache keeps all */
            for (int64_t r = 0; r < rows; r++)
                for (int64_t i = k; i < min64(k + TILE, j->k); i += 2)
                    memcpy(lines + i * PAIR_ROWS + 2 * r, b + r * j->b_row + i, (size_t)min64(2, j->k - i) * 2);
    }
}

int KERNEL(pairs16_pack)(rtp_cpu_device *device, uint16_t *out, const uint16_t *b, int64_t n, int64_t k,
                         int64_t b_row) {
    if (n < 0 || k < 0) return RTP_CPU_BAD_ARGUMENT;
    pack_job j = {b, out, n, k, b_row};
    rtp_pool_run(device->pool, pack_groups, &j, div_up(n, PAIR_ROWS), grain_for(PAIR_ROWS * k));
    return RTP_CPU_OK;
}

typedef struct {
    int dtype;
    void *out;
    const uint16_t *w;
    const int32_t *ids;
    int64_t k, out_row;
} unpack_job;

static void unpack_rows(void *argument, int64_t begin, int64_t end, void *scratch) {
    const unpack_job *j = argument;
    (void)scratch;
    for (int64_t t = begin; t < end; t++) {
        int64_t row = j->ids ? j->ids[t] : t;
        const uint16_t *w = j->w + row / PAIR_ROWS * pairs16_group(j->k) + row % PAIR_ROWS * 2;
        for (int64_t k = 0; k < j->k; k += TILE) {
            uint16_t bits[TILE];
            float values[TILE];
            int64_t width = min64(TILE, j->k - k);
            for (int64_t i = 0; i < width; i += 2) memcpy(bits + i, w + (k + i) * PAIR_ROWS, 4);
            void *out = at_mut(j->out, j->dtype, t * j->out_row + k);
            if (j->dtype == RTP_CPU_BF16) {
                memcpy(out, bits, (size_t)width * 2);
            } else {
                load_f32(RTP_CPU_BF16, bits, width, values);
                store_f32(j->dtype, out, width, values);
            }
        }
    }
}

int KERNEL(pairs16_unpack)(rtp_cpu_device *device, int dtype, void *out, const uint16_t *w, const int32_t *ids,
                           int64_t count, int64_t n, int64_t k, int64_t out_row) {
    if (!is_dtype(dtype) || n < 0 || k < 0) return RTP_CPU_BAD_ARGUMENT;
    if (!rows_are_valid(ids, count, n)) return RTP_CPU_OUT_OF_RANGE;
    unpack_job j = {dtype, out, w, ids, k, out_row};
    rtp_pool_run(device->pool, unpack_rows, &j, count, grain_for(2 * k));
    return RTP_CPU_OK;
}
