/* The blocked KV cache and both attentions over it. */

#include "driver.h"

typedef struct {
    int64_t context, queries;
} request;

enum { MAX_REQUESTS = 4 };

static void attention(rtp_cpu_device *device, int dtype, int kv_dtype, const request *requests, int64_t count,
                      int64_t kv_heads, int64_t group, int64_t dim, int64_t block) {
    int64_t width = 1, tokens = 0, heads = kv_heads * group;
    for (int64_t r = 0; r < count; r++) {
        int64_t blocks = (requests[r].context + block - 1) / block;
        width = blocks > width ? blocks : width;
        tokens += requests[r].queries;
    }
    int64_t blocks = count * width, size = blocks * 2 * kv_heads * block * dim;
    tensor cache = tensor_random(kv_dtype, size);
    rtp_cpu_kv kv = {
        cache.data,  kv_dtype, blocks, kv_heads, block, dim, 2 * kv_heads * block * dim, kv_heads * block * dim,
        block * dim, dim};
    int32_t *tables = int32s(count * width), *lengths = int32s(count), *starts = int32s(count + 1);
    for (int64_t i = 0; i < count * width; i++) tables[i] = (int32_t)(count * width - 1 - i);
    for (int64_t r = 0; r < count; r++) {
        lengths[r] = (int32_t)requests[r].context;
        starts[r + 1] = starts[r] + (int32_t)requests[r].queries;
        tensor k = tensor_random(dtype, lengths[r] * kv_heads * dim),
               v = tensor_random(dtype, lengths[r] * kv_heads * dim);
        int32_t *slots = int32s(lengths[r]);
        for (int64_t t = 0; t < lengths[r]; t++)
            slots[t] = (int32_t)(tables[r * width + t / block] * block + t % block);
        require(!rtp_cpu_kv_write(device, &kv, dtype, k.data, v.data, slots, lengths[r], kv_heads * dim, dim,
                                  kv_heads * dim, dim),
                "kv_write");
        tensor gk = tensor_random(kv_dtype, k.count), gv = tensor_random(kv_dtype, k.count);
        require(!rtp_cpu_kv_gather(device, &kv, gk.data, gv.data, tables + r * width, lengths[r]), "kv_gather");
        tensor_read(&gk), tensor_read(&gv);
        for (int64_t i = 0; i < k.count; i++) {
            int64_t t = i / dim % lengths[r], h = i / dim / lengths[r], from = (t * kv_heads + h) * dim + i % dim;
            expect("kv_gather", &gk, i, k.values[from], 1e-3);
            expect("kv_gather", &gv, i, v.values[from], 1e-3);
        }
        if (lengths[r]) {
            slots[0] = (int32_t)(blocks * block);
            require(rtp_cpu_kv_write(device, &kv, dtype, k.data, v.data, slots, 1, kv_heads * dim, dim, kv_heads * dim,
                                     dim) == RTP_CPU_OUT_OF_RANGE,
                    "a slot outside the cache");
        }
        free(slots);
        tensor_free(&k), tensor_free(&v), tensor_free(&gk), tensor_free(&gv);
    }
    tensor_read(&cache);
    tensor q = tensor_random(dtype, tokens * heads * dim), out = tensor_random(dtype, tokens * heads * dim);
    for (int decode = 0; decode < 2; decode++) {
        if (decode && tokens != count) break;
        int status = decode ? rtp_cpu_decode_attention(device, &kv, dtype, out.data, q.data, tables, width, lengths,
                                                       count, heads, heads * dim, dim, heads * dim, dim, 0.5f)
                            : rtp_cpu_context_attention(device, &kv, dtype, out.data, q.data, tables, width, lengths,
                                                        starts, count, heads, heads * dim, dim, heads * dim, dim, 0.5f);
        require(!status, "attention");
        /* A prompt's keys and values of 16 bits are multiplied as codes of as many. */
        const double scale = dtype == RTP_CPU_F32 && kv_dtype != RTP_CPU_F32 && !decode ? 500 : 1;
        tensor_read(&out);
        for (int64_t r = 0; r < count; r++) {
            for (int64_t i = 0; i < requests[r].queries * heads; i++) {
                int64_t token = starts[r] + i / heads, h = i % heads,
                        seen = lengths[r] - requests[r].queries + i / heads + 1;
                const float *query = q.values + (token * heads + h) * dim;
                double total = 0, *sums = calloc((size_t)dim + 1, sizeof *sums);
                for (int64_t t = 0; t < seen; t++) {
                    const float *k = cache.values + tables[r * width + t / block] * kv.block_stride +
                                     h / group * kv.head_stride + t % block * dim;
                    double score = 0;
                    for (int64_t d = 0; d < dim; d++) score += (double)query[d] * k[d];
                    double p = exp(0.5 * score);
                    total += p;
                    for (int64_t d = 0; d < dim; d++) sums[d] += p * k[kv.part_stride + d];
                }
                for (int64_t d = 0; d < dim; d++)
                    expect("attention", &out, (token * heads + h) * dim + d, total > 0 ? sums[d] / total : 0, scale);
                free(sums);
            }
        }
    }
    if (lengths[0]) {
        tables[0] = (int32_t)blocks;
        require(rtp_cpu_decode_attention(device, &kv, dtype, out.data, q.data, tables, width, lengths, 1, heads,
                                         heads * dim, dim, heads * dim, dim, 1) == RTP_CPU_OUT_OF_RANGE,
                "a block outside the cache");
    }
    free(tables), free(lengths), free(starts);
    tensor_free(&cache), tensor_free(&q), tensor_free(&out);
}

/* Requests of these lengths, whose tokens see all of their own. Rows have a gap, as in fused products. */
static void within(rtp_cpu_device *device, int dtype, const int32_t *lengths, int64_t count, int64_t kv_heads,
                   int64_t group, int64_t dim) {
    enum { GAP = 3 };
    int64_t heads = kv_heads * group, q_row = heads * dim + GAP, k_row = kv_heads * dim + GAP;
    int32_t *starts = int32s(count + 1);
    starts[0] = 5; /* rows count from the first one's */
    for (int64_t r = 0; r < count; r++) starts[r + 1] = starts[r] + lengths[r];
    int64_t tokens = starts[count] - starts[0], q_count = tokens ? tokens * q_row - GAP : 0;
    int64_t k_count = tokens ? tokens * k_row - GAP : 0;
    tensor q = tensor_random(dtype, q_count), out = tensor_random(dtype, q_count);
    tensor k = tensor_random(dtype, k_count), v = tensor_random(dtype, k_count);
    require(!rtp_cpu_encoder_attention(device, dtype, out.data, q.data, k.data, v.data, lengths, starts, count, heads,
                                       kv_heads, dim, q_row, q_row, k_row, k_row, 0.5f),
            "encoder_attention");
    tensor_read(&out);
    for (int64_t r = 0; r < count; r++) {
        int64_t first = starts[r] - starts[0];
        for (int64_t i = 0; i < lengths[r] * heads; i++) {
            int64_t token = first + i / heads, h = i % heads;
            double total = 0, *sums = calloc((size_t)dim + 1, sizeof *sums);
            for (int64_t t = first; t < first + lengths[r]; t++) {
                double score = 0;
                for (int64_t d = 0; d < dim; d++)
                    score += (double)q.values[token * q_row + h * dim + d] * k.values[t * k_row + h / group * dim + d];
                double p = exp(0.5 * score);
                total += p;
                for (int64_t d = 0; d < dim; d++) sums[d] += p * v.values[t * k_row + h / group * dim + d];
            }
            for (int64_t d = 0; d < dim; d++)
                expect("encoder_attention", &out, token * q_row + h * dim + d, sums[d] / total, 1);
            free(sums);
        }
    }
    starts[count]++;
    require(rtp_cpu_encoder_attention(device, dtype, out.data, q.data, k.data, v.data, lengths, starts, count, heads,
                                      kv_heads, dim, q_row, q_row, k_row, k_row, 1) == RTP_CPU_OUT_OF_RANGE,
            "lengths that are not those of the rows");
    free(starts);
    tensor_free(&q), tensor_free(&k), tensor_free(&v), tensor_free(&out);
}

void test_attention(rtp_cpu_device *device) {
    static const request cases[][MAX_REQUESTS] = {
        {{1, 1}}, {{5, 1}, {64, 1}, {1, 1}}, {{6, 6}}, {{40, 3}, {7, 7}, {75, 70}}, {{300, 1}}, {{150, 9}, {0, 0}}};
    static const int64_t counts[] = {1, 3, 1, 3, 1, 2};
    for (int dtype = RTP_CPU_F32; dtype <= RTP_CPU_BF16; dtype++) {
        for (int kv_dtype = RTP_CPU_F32; kv_dtype <= (is_brief ? RTP_CPU_F32 : RTP_CPU_BF16); kv_dtype++) {
            for (unsigned i = 0; i < sizeof counts / sizeof *counts; i++) {
                attention(device, dtype, kv_dtype, cases[i], counts[i], 1, 3, 16, 16);
                attention(device, dtype, kv_dtype, cases[i], counts[i], 2, 1, 5, 3);
            }
        }
    }
    for (int kv_dtype = RTP_CPU_F32; kv_dtype <= RTP_CPU_F16; kv_dtype++) /* more heads than a tile has rows */
        attention(device, RTP_CPU_F32, kv_dtype, cases[3], 3, 1, 60, 33, 32);
    static const int32_t lengths[] = {70, 0, 1, 13, 97};
    for (int dtype = RTP_CPU_F32; dtype <= RTP_CPU_BF16; dtype++) {
        within(device, dtype, lengths, 5, 2, 1, 16);
        within(device, dtype, lengths + 1, 3, 1, 3, 5);
        within(device, dtype, lengths + 1, 1, 1, 1, 8);
    }
}
