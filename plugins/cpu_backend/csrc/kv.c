/* Tokens into a blocked KV cache, and out of it again. */

#include "blocked_kv.h"

typedef struct {
    rtp_cpu_kv kv;
    int dtype;
    const void *k, *v;
    const int32_t *slots;
    int64_t k_token, k_head, v_token, v_head;
} write_job;

static void put(const rtp_cpu_kv *kv, void *dst, int dtype, const void *src) {
    float tile[TILE];
    if (dtype == kv->dtype) {
        memcpy(dst, src, (size_t)(kv->head_dim * dtype_bytes(dtype)));
        return;
    }
    for (int64_t d = 0; d < kv->head_dim; d += TILE) {
        int64_t width = min64(TILE, kv->head_dim - d);
        const float *x = tile_in(dtype, at(src, dtype, d), width, tile);
        store_f32(kv->dtype, at_mut(dst, kv->dtype, d), width, x);
    }
}

static void write_tokens(void *argument, int64_t begin, int64_t end, void *scratch) {
    const write_job *j = argument;
    const rtp_cpu_kv *kv = &j->kv;
    (void)scratch;
    for (int64_t t = begin; t < end; t++) {
        int64_t block = j->slots[t] / kv->block_size, offset = j->slots[t] % kv->block_size;
        for (int64_t h = 0; h < kv->heads; h++) {
            put(kv, kv_at(kv, KEY, block, h, offset), j->dtype, at(j->k, j->dtype, t * j->k_token + h * j->k_head));
            put(kv, kv_at(kv, VALUE, block, h, offset), j->dtype, at(j->v, j->dtype, t * j->v_token + h * j->v_head));
        }
    }
}

int KERNEL(kv_write)(rtp_cpu_device *device, const rtp_cpu_kv *kv, int dtype, const void *k, const void *v,
                     const int32_t *slots, int64_t tokens, int64_t k_token, int64_t k_head, int64_t v_token,
                     int64_t v_head) {
    if (!is_kv(kv) || !is_dtype(dtype)) return RTP_CPU_BAD_ARGUMENT;
    for (int64_t t = 0; t < tokens; t++)
        if (slots[t] < 0 || slots[t] / kv->block_size >= kv->blocks) return RTP_CPU_OUT_OF_RANGE;
    write_job j = {*kv, dtype, k, v, slots, k_token, k_head, v_token, v_head};
    rtp_pool_run(device->pool, write_tokens, &j, tokens, grain_for(2 * kv->heads * kv->head_dim));
    return RTP_CPU_OK;
}

typedef struct {
    rtp_cpu_kv kv;
    void *k, *v;
    const int32_t *block_table;
    int64_t num_tokens;
} gather_job;

static void gather_tokens(void *argument, int64_t begin, int64_t end, void *scratch) {
    const gather_job *j = argument;
    int64_t bytes = j->kv.head_dim * dtype_bytes(j->kv.dtype);
    (void)scratch;
    for (int64_t u = begin; u < end; u++) {
        int64_t head = u / j->num_tokens, t = u % j->num_tokens;
        int64_t block = j->block_table[t / j->kv.block_size], offset = t % j->kv.block_size;
        memcpy((char *)j->k + u * bytes, kv_at(&j->kv, KEY, block, head, offset), (size_t)bytes);
        memcpy((char *)j->v + u * bytes, kv_at(&j->kv, VALUE, block, head, offset), (size_t)bytes);
    }
}

int KERNEL(kv_gather)(rtp_cpu_device *device, const rtp_cpu_kv *kv, void *k, void *v, const int32_t *block_table,
                      int64_t num_tokens) {
    if (!is_kv(kv)) return RTP_CPU_BAD_ARGUMENT;
    if (!blocks_are_valid(kv, block_table, INT64_MAX, num_tokens)) return RTP_CPU_OUT_OF_RANGE;
    gather_job j = {*kv, k, v, block_table, num_tokens};
    rtp_pool_run(device->pool, gather_tokens, &j, kv->heads * num_tokens, grain_for(2 * kv->head_dim));
    return RTP_CPU_OK;
}
