/* Causal attention of many query tokens: tiles of queries, all query heads of one kv head together, pass over the
   context in runs of 64 tokens. Both products are register tiles in f32; the scores of a run are all that is kept.
   Source: FlashAttention-2, arXiv:2307.08691, section 3.1 (order of the loops). */

#include "attention.h"
#include "gemm_tile.h"

enum { TILE_ROWS = 48 }; /* query tokens times query heads of a kv head, about */

typedef struct {
    int32_t request, kv_head, first, count; /* query tokens [first, first + count) of the request */
} item;

typedef struct {
    rtp_cpu_kv kv;
    int dtype;
    void *out;
    const void *q;
    const int32_t *block_tables, *context_lens, *query_starts;
    int64_t table_row, group, out_token, out_head, q_token, q_head, padded_dim, max_rows;
    float scale;
    const item *items;
} job;

typedef struct {
    float *q; /* [rows, D] */
    float *keys; /* [D, RUN], columns are tokens */
    float *values; /* [RUN, padded D] */
    float *scores; /* [rows, RUN] */
    float *sums; /* [rows, padded D] */
    online *state; /* [rows] */
} work;

static int64_t scratch_floats(int64_t rows, int64_t dim, int64_t padded) {
    return rows * (dim + RUN + padded + 2) + RUN * (dim + padded);
}

static work lay_out(const job *j, float *scratch) {
    int64_t dim = j->kv.head_dim, rows = j->max_rows;
    work w;
    w.q = scratch;
    w.keys = w.q + rows * dim;
    w.values = w.keys + dim * RUN;
    w.scores = w.values + RUN * j->padded_dim;
    w.sums = w.scores + rows * RUN;
    w.state = (online *)(w.sums + rows * j->padded_dim);
    return w;
}

/* Where query token i of a request lies, in tokens from the first row of q and out. */
INLINE int64_t token_of(const job *j, const item *it, int64_t i) {
    return (int64_t)j->query_starts[it->request] - j->query_starts[0] + i;
}

/* c[rows, cols] (+)= a[rows, k] b[k, cols], cols a multiple of NR. */
static void multiply(int64_t rows, int64_t cols, int64_t k, const float *a, int64_t a_row, const float *b,
                     int64_t b_row, float *c, int64_t c_row, int add) {
    for (int64_t col = 0; col < cols; col += NR)
        for (int64_t m = 0; m < rows; m += MR)
            gemm_tile((int)min64(MR, rows - m), k, a + m * a_row, a_row, b + col, b_row, c + m * c_row + col, c_row,
                      add);
}

static void load_run(const job *j, const item *it, int64_t t, int64_t n, const work *w) {
    const int64_t dim = j->kv.head_dim;
    const int32_t *table = j->block_tables + it->request * j->table_row;
    const void *rows[RUN];
    kv_rows(&j->kv, KEY, table, it->kv_head, t, n, rows);
    for (int64_t c = 0; c < n; c += NR) pack_columns(w->keys + c, RUN, rows + c, min64(NR, n - c), j->kv.dtype, dim);
    kv_rows(&j->kv, VALUE, table, it->kv_head, t, n, rows);
    for (int64_t i = 0; i < n; i++) load_f32(j->kv.dtype, rows[i], dim, w->values + i * j->padded_dim);
}

static void attend(const job *j, const item *it, const work *w) {
    const int64_t dim = j->kv.head_dim, padded = j->padded_dim, rows = it->count * j->group;
    int64_t queries = (int64_t)j->query_starts[it->request + 1] - j->query_starts[it->request];
    int64_t position = j->context_lens[it->request] - queries + it->first; /* of the tile's first query */
    for (int64_t row = 0; row < rows; row++) {
        int64_t token = token_of(j, it, it->first + row / j->group), head = it->kv_head * j->group + row % j->group;
        load_f32(j->dtype, at(j->q, j->dtype, token * j->q_token + head * j->q_head), dim, w->q + row * dim);
        w->state[row] = (online){-INFINITY, 0};
    }
    memset(w->sums, 0, (size_t)(rows * padded) * 4);
    for (int64_t t = 0; t < position + it->count; t += RUN) {
        int64_t n = min64(RUN, position + it->count - t), first = 0;
        load_run(j, it, t, n, w);
        while (first < rows && position + first / j->group < t) first += j->group; /* queries that see nothing here */
        float *scores = w->scores + first * RUN, *sums = w->sums + first * padded;
        multiply(rows - first, div_up(n, NR) * NR, dim, w->q + first * dim, dim, w->keys, RUN, scores, RUN, 0);
        for (int64_t row = first; row < rows; row++) {
            float *s = w->scores + row * RUN;
            int64_t visible = min64(n, position + row / j->group - t + 1);
            float keep = online_step(&w->state[row], s, visible, j->scale);
            memset(s + visible, 0, (size_t)(n - visible) * 4);
            if (keep != 1) scale_row(w->sums + row * padded, padded, keep);
        }
        multiply(rows - first, padded, n, scores, RUN, w->values, padded, sums, padded, 1);
    }
    for (int64_t row = 0; row < rows; row++) {
        int64_t token = token_of(j, it, it->first + row / j->group), head = it->kv_head * j->group + row % j->group;
        float total = w->state[row].total;
        scale_row(w->sums + row * padded, dim, total == 0 ? 0 : 1 / total);
        store_f32(j->dtype, at_mut(j->out, j->dtype, token * j->out_token + head * j->out_head), dim,
                  w->sums + row * padded);
    }
}

static void attend_items(void *argument, int64_t begin, int64_t end, void *scratch) {
    const job *j = argument;
    work w = lay_out(j, scratch);
    memset(w.values, 0, (size_t)(RUN * j->padded_dim) * 4); /* columns from D on stay zero */
    for (int64_t u = begin; u < end; u++) attend(j, &j->items[u], &w);
}

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
    if (requests == 0 || heads == 0) return RTP_CPU_OK;
    int64_t group = heads / kv->heads, tile = max64(4, min64(32, TILE_ROWS / group));
    int64_t padded = div_up(kv->head_dim, NR) * NR, tokens = (int64_t)query_starts[requests] - query_starts[0];
    int64_t most = (tokens / tile + requests) * kv->heads; /* however the tokens are shared out */
    void *items;
    int status = rtp_pool_reserve(device->pool, most * (int64_t)sizeof(item), &items,
                                  scratch_floats(tile * group, kv->head_dim, padded) * 4);
    if (status != RTP_CPU_OK) return status;
    int64_t count = list_items(query_starts, requests, kv->heads, tile, items);
    job j = {*kv,       dtype,    out,     q,      block_tables, context_lens, query_starts, table_row, group,
             out_token, out_head, q_token, q_head, padded,       tile * group, scale,        items};
    rtp_pool_run(device->pool, attend_items, &j, count, 1);
    return RTP_CPU_OK;
}
