/* Where the tokens of a blocked KV cache lie. */

#ifndef RTP_CPU_BLOCKED_KV_H
#define RTP_CPU_BLOCKED_KV_H

#include "tile.h"

enum { KEY = 0, VALUE = 1 };

INLINE int is_kv(const rtp_cpu_kv *kv) {
    return is_dtype(kv->dtype) && kv->blocks >= 0 && kv->heads >= 0 && kv->block_size > 0 && kv->head_dim >= 0;
}

/* The key or value of one head of token `offset` of block `block`: [D]. */
INLINE void *kv_at(const rtp_cpu_kv *kv, int part, int64_t block, int64_t head, int64_t offset) {
    int64_t place =
        block * kv->block_stride + part * kv->part_stride + head * kv->head_stride + offset * kv->token_stride;
    return at_mut(kv->data, kv->dtype, place);
}

/* Whether a block table of `length` entries leads to `tokens` tokens, all inside the cache. */
INLINE int blocks_are_valid(const rtp_cpu_kv *kv, const int32_t *table, int64_t length, int64_t tokens) {
    int64_t blocks = div_up(tokens, kv->block_size);
    if (tokens < 0 || blocks > length) return 0;
    for (int64_t b = 0; b < blocks; b++)
        if (table[b] < 0 || table[b] >= kv->blocks) return 0;
    return 1;
}

/* rows[i]: where token first + i of one head lies, for i < count. */
INLINE void kv_rows(const rtp_cpu_kv *kv, int part, const int32_t *table, int64_t head, int64_t first, int64_t count,
                    const void **rows) {
    int64_t block = first / kv->block_size, offset = first % kv->block_size;
    for (int64_t i = 0; i < count; i++) {
        rows[i] = kv_at(kv, part, table[block], head, offset);
        if (++offset == kv->block_size) offset = 0, block++;
    }
}

#endif
