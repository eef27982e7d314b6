/* What attention of many query tokens works on: tiles of the queries of a request, all query heads of a kv head
   together, and where its operands lie. */

#ifndef RTP_CPU_CONTEXT_JOB_H
#define RTP_CPU_CONTEXT_JOB_H

#include "attention.h"
#include "gemm_tile.h"

#define LOG2_E 1.44269504f
#define LEAST -115.0f /* exponents of 2 end here: what is less than a normal number is slow */

typedef struct {
    int32_t request, kv_head, first, count; /* query tokens [first, first + count) of the request */
} item;

typedef struct {
    rtp_cpu_kv kv; /* of no blocks where keys and values are rows of the batch */
    const void *k, *v;
    int64_t k_token, k_head, v_token, v_head;
    int dtype;
    void *out;
    const void *q;
    const int32_t *block_tables, *context_lens, *query_starts;
    int64_t table_row, group, out_token, out_head, q_token, q_head, padded_dim, max_rows;
    float scale;
    const item *items;
} job;

/* Where query token i of a request lies, in tokens from the first row of q and out. */
INLINE int64_t token_of(const job *j, const item *it, int64_t i) {
    return (int64_t)j->query_starts[it->request] - j->query_starts[0] + i;
}

/* Keys and values of tokens [t, t + n) of a kv head. */
static void find_run(const job *j, const item *it, int64_t t, int64_t n, const void **keys, const void **values) {
    if (j->kv.blocks) {
        const int32_t *table = j->block_tables + it->request * j->table_row;
        kv_rows(&j->kv, KEY, table, it->kv_head, t, n, keys);
        kv_rows(&j->kv, VALUE, table, it->kv_head, t, n, values);
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        int64_t token = token_of(j, it, t + i);
        keys[i] = at(j->k, j->kv.dtype, token * j->k_token + it->kv_head * j->k_head);
        values[i] = at(j->v, j->kv.dtype, token * j->v_token + it->kv_head * j->v_head);
    }
}

/* Queries of rows [row, row + NR) as columns [D, NR] of f32, scaled so that 2^score is what softmax weighs; how much of
   the context each sees, which is nothing for those beyond the tile. */
static void load_columns(const job *j, const item *it, int64_t row, int64_t rows, float *q, int64_t q_row,
                         float *seen) {
    int64_t context = j->context_lens[it->request], count = min64(NR, rows - row);
    int64_t queries = (int64_t)j->query_starts[it->request + 1] - j->query_starts[it->request];
    const void *columns[NR];
    for (int64_t c = 0; c < NR; c++) seen[c] = 0;
    for (int64_t c = 0; c < count; c++) {
        int64_t i = it->first + (row + c) / j->group, head = it->kv_head * j->group + (row + c) % j->group;
        columns[c] = at(j->q, j->dtype, token_of(j, it, i) * j->q_token + head * j->q_head);
        seen[c] = (float)(j->kv.blocks ? context - queries + i + 1 : context);
    }
    pack_columns(q, q_row, columns, count, j->dtype, j->kv.head_dim);
    for (int64_t d = 0; d < j->kv.head_dim; d++) scale_row(q + d * q_row, NR, j->scale * LOG2_E);
}

/* sums [rows, padded D] over what their weights sum up to are the result. */
static void store_rows(const job *j, const item *it, int64_t rows, float *sums, const float *total) {
    const int64_t dim = j->kv.head_dim;
    for (int64_t row = 0; row < rows; row++, sums += j->padded_dim) {
        int64_t token = token_of(j, it, it->first + row / j->group), head = it->kv_head * j->group + row % j->group;
        scale_row(sums, dim, total[row] == 0 ? 0 : 1 / total[row]);
        store_f32(j->dtype, at_mut(j->out, j->dtype, token * j->out_token + head * j->out_head), dim, sums);
    }
}

#endif
