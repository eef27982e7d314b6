/* Attention of many query tokens: causal over blocked KV, or full over the rows of the batch itself. Tiles of queries,
   all query heads of one kv head together, pass over the context in runs of 64 tokens. Both products are register tiles
   in f32. Scores are kept with the queries side by side: keys are read as they lie, and the softmax of a vector's
   queries runs in its lanes, in powers of 2: what turns them into powers of e is in the queries.
   Source: FlashAttention-2, arXiv:2307.08691, section 3.1 (order of the loops); the online softmax of attention.h. */

#include "attention.h"
#include "gemm_tile.h"

#define LOG2_E 1.44269504f
#define LEAST -115.0f
enum { TILE_ROWS = 96 }; /* query tokens times query heads of a kv head, about */

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

typedef struct {
    float *q; /* [D, rows], columns are queries, scaled so that 2^score is what softmax weighs */
    float *keys; /* [RUN, D] */
    float *values; /* [RUN, padded D] */
    float *scores; /* [RUN, rows] */
    float *sums; /* [rows, padded D] */
    float *top, *total, *keep; /* [rows]: the largest score so far, the sum of 2^(score - top), what sums shrink by */
    float *seen; /* [rows]: tokens of the context that a query sees */
} work;

static int64_t scratch_floats(int64_t rows, int64_t dim, int64_t padded) {
    return rows * (dim + RUN + padded + 4) + RUN * (dim + padded);
}

static work lay_out(const job *j, float *scratch) {
    int64_t dim = j->kv.head_dim, rows = j->max_rows;
    work w;
    w.q = scratch;
    w.keys = w.q + rows * dim;
    w.values = w.keys + dim * RUN;
    w.scores = w.values + RUN * j->padded_dim;
    w.sums = w.scores + rows * RUN;
    w.top = w.sums + rows * j->padded_dim;
    w.total = w.top + rows;
    w.keep = w.total + rows;
    w.seen = w.keep + rows;
    return w;
}

/* Where query token i of a request lies, in tokens from the first row of q and out. */
INLINE int64_t token_of(const job *j, const item *it, int64_t i) {
    return (int64_t)j->query_starts[it->request] - j->query_starts[0] + i;
}

/* c[rows, cols] (+)= a[rows, k] b[k, cols], cols a multiple of NR. */
static void multiply(int64_t rows, int64_t cols, int64_t k, const float *a, int64_t a_row, int64_t a_col,
                     const float *b, int64_t b_row, float *c, int64_t c_row, int add) {
    for (int64_t col = 0; col < cols; col += NR)
        for (int64_t m = 0; m < rows; m += MR)
            gemm_tile((int)min64(MR, rows - m), k, a + m * a_row, a_row, a_col, b + col, b_row, c + m * c_row + col,
                      c_row, add);
}

/* Keys and values of tokens [t, t + n) of a kv head, as rows of f32. */
static void load_run(const job *j, const item *it, int64_t t, int64_t n, const work *w) {
    const int64_t dim = j->kv.head_dim;
    const void *keys[RUN], *values[RUN];
    int dtype = j->kv.dtype;
    if (j->kv.blocks) {
        const int32_t *table = j->block_tables + it->request * j->table_row;
        kv_rows(&j->kv, KEY, table, it->kv_head, t, n, keys);
        kv_rows(&j->kv, VALUE, table, it->kv_head, t, n, values);
    } else {
        for (int64_t i = 0; i < n; i++) {
            int64_t token = token_of(j, it, t + i);
            keys[i] = at(j->k, dtype, token * j->k_token + it->kv_head * j->k_head);
            values[i] = at(j->v, dtype, token * j->v_token + it->kv_head * j->v_head);
        }
    }
    for (int64_t i = 0; i < n; i++) {
        load_f32(dtype, keys[i], dim, w->keys + i * dim);
        load_f32(dtype, values[i], dim, w->values + i * j->padded_dim);
    }
}

/* The queries as columns, and how much of the context each sees. */
static void load_queries(const job *j, const item *it, int64_t rows, const work *w) {
    const int64_t dim = j->kv.head_dim;
    int64_t context = j->context_lens[it->request];
    int64_t queries = (int64_t)j->query_starts[it->request + 1] - j->query_starts[it->request];
    for (int64_t row = 0; row < rows; row += NR) {
        const void *columns[NR];
        for (int64_t c = 0; c < min64(NR, rows - row); c++) {
            int64_t i = it->first + (row + c) / j->group, head = it->kv_head * j->group + (row + c) % j->group;
            columns[c] = at(j->q, j->dtype, token_of(j, it, i) * j->q_token + head * j->q_head);
            w->seen[row + c] = (float)(j->kv.blocks ? context - queries + i + 1 : context);
        }
        pack_columns(w->q + row, j->max_rows, columns, min64(NR, rows - row), j->dtype, dim);
        for (int64_t d = 0; d < dim; d++) scale_row(w->q + d * j->max_rows + row, NR, j->scale * LOG2_E);
    }
    for (int64_t row = rows; row < div_up(rows, NR) * NR; row++) w->seen[row] = 0;
    for (int64_t row = 0; row < div_up(rows, NR) * NR; row++) w->top[row] = -INFINITY, w->total[row] = 0;
    memset(w->sums, 0, (size_t)(rows * j->padded_dim) * 4);
}

/* Scores [n, VF queries from `row`] of tokens t.. become 2^(score - top). */
static void soften(const job *j, const work *w, int64_t row, int64_t t, int64_t n, int is_cut) {
    const vf lowest = vf_set1(-INFINITY), seen = vf_load(w->seen + row);
    float *scores = w->scores + row;
    const int64_t step = j->max_rows;
    vf before = vf_load(w->top + row), top = before, total = vf_zero();
    for (int64_t i = 0; i < n; i++) {
        vf s = vf_load(scores + i * step);
        if (is_cut) {
            s = vf_if_less(vf_set1((float)(t + i)), seen, s, lowest);
            vf_store(scores + i * step, s);
        }
        top = vf_max(s, top);
    }
    vf base = vf_if_less(lowest, top, top, vf_zero()); /* a query that has seen nothing yet has no top */
    for (int64_t i = 0; i < n; i++) { /* no smaller than 2^LEAST: what is less than a normal number is slow */
        vf e = vf_exp2_within(vf_max(vf_set1(LEAST), vf_sub(vf_load(scores + i * step), base)));
        if (is_cut) e = vf_if_less(vf_set1((float)(t + i)), seen, e, vf_zero());
        vf_store(scores + i * step, e);
        total = vf_add(total, e);
    }
    vf keep = vf_if_less(lowest, before, vf_exp2_within(vf_max(vf_set1(LEAST), vf_sub(before, base))), vf_zero());
    vf_store(w->keep + row, keep);
    vf_store(w->total + row, vf_fma(vf_load(w->total + row), keep, total));
    vf_store(w->top + row, top);
}

static void attend(const job *j, const item *it, const work *w) {
    const int64_t dim = j->kv.head_dim, padded = j->padded_dim, rows = it->count * j->group, step = j->max_rows;
    load_queries(j, it, rows, w);
    int64_t fewest = (int64_t)w->seen[0], most = (int64_t)w->seen[rows - 1];
    for (int64_t t = 0; t < most; t += RUN) {
        int64_t n = min64(RUN, most - t), first = 0;
        load_run(j, it, t, n, w);
        while (w->seen[first] <= (float)t) first++; /* queries that see nothing here */
        for (int64_t col = first / NR * NR; col < rows; col += NR) { /* softened while they are in the first cache */
            multiply(n, NR, dim, w->keys, dim, 1, w->q + col, step, w->scores + col, step, 0);
            for (int64_t row = col; row < min64(rows, col + NR); row += VF) soften(j, w, row, t, n, t + n > fewest);
        }
        for (int64_t row = first; row < rows; row++)
            if (w->keep[row] != 1) scale_row(w->sums + row * padded, padded, w->keep[row]);
        multiply(rows - first, padded, n, w->scores + first, 1, step, w->values, padded, w->sums + first * padded,
                 padded, 1);
    }
    for (int64_t row = 0; row < rows; row++) {
        int64_t token = token_of(j, it, it->first + row / j->group), head = it->kv_head * j->group + row % j->group;
        float total = w->total[row];
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

/* All requests of a job whose operands are set, in one go. */
static int run(rtp_cpu_device *device, job *j, int64_t requests) {
    int64_t tile = max64(4, min64(TILE_ROWS, TILE_ROWS / j->group)), kv_heads = j->kv.heads;
    int64_t tokens = (int64_t)j->query_starts[requests] - j->query_starts[0];
    int64_t most = (tokens / tile + requests) * kv_heads; /* however the tokens are shared out */
    j->padded_dim = div_up(j->kv.head_dim, NR) * NR;
    j->max_rows = div_up(tile * j->group, NR) * NR;
    void *items;
    int status = rtp_pool_reserve(device->pool, most * (int64_t)sizeof(item), &items,
                                  scratch_floats(j->max_rows, j->kv.head_dim, j->padded_dim) * 4);
    if (status != RTP_CPU_OK) return status;
    j->items = items;
    int64_t count = list_items(j->query_starts, requests, kv_heads, tile, items);
    rtp_pool_run(device->pool, attend_items, j, count, 1);
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
