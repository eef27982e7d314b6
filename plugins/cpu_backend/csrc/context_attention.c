/* Attention of many query tokens: causal over blocked KV, or full over the rows of the batch itself. Tiles of queries,
   all query heads of one kv head together, pass over the context in runs of 64 tokens. Scores are kept with the queries
   side by side: keys are read as they lie, and the softmax of a vector's queries runs in its lanes, in powers of 2:
   what turns them into powers of e is in the queries.
   Source: FlashAttention-2, arXiv:2307.08691, section 3.1 (order of the loops); the online softmax of attention.h. */

#include "context_floats.h"
#include "context_words.h"

/* Query tokens times query heads of a kv head that a tile has, about: keys and values are loaded once for all of them,
   and every thread should have a few tiles. */
enum { LEAST_ROWS = 96, MOST_ROWS = 384, TILES_OF_A_THREAD = 4 };

static int64_t tile_rows(const rtp_cpu_device *device, int64_t rows) {
    int64_t tile = MOST_ROWS, threads = rtp_pool_threads(device->pool);
    while (tile > LEAST_ROWS && rows < TILES_OF_A_THREAD * threads * tile) tile /= 2;
    return tile;
}

/* Query tokens of a tile of about so many rows. */
INLINE int64_t tile_tokens(int64_t rows, int64_t group) { return max64(4, rows / group); }

/* Tiles of every request, last queries first: they see most, and the short ones fill the gaps at the end. */
static int64_t list_items(const int32_t *query_starts, int64_t requests, int64_t kv_heads, int64_t tile, item *items) {
    int64_t count = 0;
    for (int64_t r = 0; r < requests; r++) {
        int64_t queries = (int64_t)query_starts[r + 1] - query_starts[r];
        for (int64_t i = div_up(queries, tile) - 1; i >= 0; i--) {
            for (int64_t h = 0; h < kv_heads; h++, count++) {
                int64_t first = i * tile;
                items[count] = (item){(int32_t)r, (int32_t)h, (int32_t)first, (int32_t)min64(tile, queries - first)};
            }
        }
    }
    return count;
}

/* All requests of a job whose operands are set, in one go. */
static int run(rtp_cpu_device *device, job *j, int64_t requests) {
    int64_t kv_heads = j->kv.heads, tokens = (int64_t)j->query_starts[requests] - j->query_starts[0];
    int64_t tile = tile_tokens(tile_rows(device, tokens * j->group * kv_heads), j->group);
    /* However the tokens are shared out, in the smallest tiles: a step of fewer tokens has more of them. */
    int64_t most = (tokens / tile_tokens(LEAST_ROWS, j->group) + requests) * kv_heads;
    j->padded_dim = div_up(j->kv.head_dim, NR) * NR;
    j->max_rows = div_up(tile * j->group, NR) * NR;
    void *items;
    rtp_task task = attend_floats_items;
    int64_t scratch = floats_scratch(j);
#if HAVE_WORDS
    if (j->kv.dtype != RTP_CPU_F32) task = attend_words_items, scratch = words_scratch(j);
#endif
    int status = rtp_pool_reserve(device->pool, most * (int64_t)sizeof(item), &items, scratch);
    if (status != RTP_CPU_OK) return status;
    j->items = items;
    int64_t count = list_items(j->query_starts, requests, kv_heads, tile, items);
    rtp_pool_run(device->pool, task, j, count, 1);
    return RTP_CPU_OK;
}

int KERNEL(context_attention)(rtp_cpu_device *device, const rtp_cpu_kv *kv, int dtype, void *out, const void *q,
                              const int32_t *block_tables, int64_t table_row, const int32_t *context_lens,
                              const int32_t *query_starts, int64_t requests, int64_t heads, int64_t out_token,
                              int64_t out_head, int64_t q_token, int64_t q_head, float scale) {
    if (!is_kv(kv) || !is_dtype(dtype) || kv->heads < 1 || heads % kv->heads) return RTP_CPU_BAD_ARGUMENT;
    for (int64_t r = 0; r < requests; r++) {
        int64_t queries = (int64_t)query_starts[r + 1] - query_starts[r];
        if (queries < 0 || queries > context_lens[r] ||
            !blocks_are_valid(kv, block_tables + r * table_row, table_row, context_lens[r]))
            return RTP_CPU_OUT_OF_RANGE;
    }
    if (requests == 0 || heads == 0 || query_starts[requests] == query_starts[0]) return RTP_CPU_OK;
    job j = {.kv = *kv, .dtype = dtype, .out = out, .q = q, .block_tables = block_tables, .scale = scale};
    j.context_lens = context_lens, j.query_starts = query_starts, j.table_row = table_row;
    j.group = heads / kv->heads, j.out_token = out_token, j.out_head = out_head, j.q_token = q_token, j.q_head = q_head;
    return run(device, &j, requests);
}

int KERNEL(encoder_attention)(rtp_cpu_device *device, int dtype, void *out, const void *q, const void *k,
                              const void *v, const int32_t *lengths, const int32_t *starts, int64_t requests,
                              int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t out_token, int64_t q_token,
                              int64_t k_token, int64_t v_token, float scale) {
    if (!is_dtype(dtype) || kv_heads < 1 || heads % kv_heads || head_dim < 0) return RTP_CPU_BAD_ARGUMENT;
    for (int64_t r = 0; r < requests; r++)
        if (lengths[r] < 0 || starts[r + 1] - starts[r] != lengths[r]) return RTP_CPU_OUT_OF_RANGE;
    if (requests == 0 || heads == 0 || starts[requests] == starts[0]) return RTP_CPU_OK;
    job j = {.kv = {.dtype = dtype, .heads = kv_heads, .head_dim = head_dim}, .dtype = dtype, .out = out};
    j.q = q, j.k = k, j.v = v, j.context_lens = lengths, j.query_starts = starts, j.scale = scale;
    j.group = heads / kv_heads, j.out_token = out_token, j.q_token = q_token, j.k_token = k_token, j.v_token = v_token;
    j.out_head = j.q_head = j.k_head = j.v_head = head_dim;
    return run(device, &j, requests);
}
