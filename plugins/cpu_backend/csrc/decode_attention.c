/* Attention of one query token per request: one task per request, kv head and, where those are few, part of the
   context. The query heads of a kv head share its loads. */

#include "attention.h"
#include "decode_tile.h"

enum { SCORES = RUN + VF }; /* of a head: those of a run, and what a tile writes past them */
enum { MIN_PART = 64 }; /* tokens: less is not worth another task */

typedef struct {
    rtp_cpu_kv kv;
    int dtype;
    void *out;
    const void *q;
    const int32_t *block_tables, *context_lens;
    int64_t table_row, heads, group, out_token, out_head, q_token, q_head, parts;
    float scale;
    float *partial; /* [requests, K, parts, group, D + 2]: sums, top, total; NULL where parts is 1 */
} job;

/* ---- tiles, by dtype and heads ---- */

INLINE void score_as(const int dtype, int heads, const cached_rows *rows, int64_t dim, const float *q, float *scores) {
    switch (heads) {
        case 1: score_rows(dtype, 1, rows, dim, q, scores, SCORES); return;
        case 2: score_rows(dtype, 2, rows, dim, q, scores, SCORES); return;
        case 3: score_rows(dtype, 3, rows, dim, q, scores, SCORES); return;
        default: score_rows(dtype, TILE_HEADS, rows, dim, q, scores, SCORES); return;
    }
}

static void score(int dtype, int heads, const cached_rows *rows, int64_t dim, const float *q, float *scores) {
    switch (dtype) {
        case RTP_CPU_F32: score_as(RTP_CPU_F32, heads, rows, dim, q, scores); return;
        case RTP_CPU_F16: score_as(RTP_CPU_F16, heads, rows, dim, q, scores); return;
        default: score_as(RTP_CPU_BF16, heads, rows, dim, q, scores); return;
    }
}

INLINE void add_as(const int dtype, int heads, const cached_rows *rows, int64_t dim, const float *weights, float *acc) {
    switch (heads) {
        case 1: add_rows(dtype, 1, rows, dim, weights, SCORES, acc); return;
        case 2: add_rows(dtype, 2, rows, dim, weights, SCORES, acc); return;
        case 3: add_rows(dtype, 3, rows, dim, weights, SCORES, acc); return;
        default: add_rows(dtype, TILE_HEADS, rows, dim, weights, SCORES, acc); return;
    }
}

static void add(int dtype, int heads, const cached_rows *rows, int64_t dim, const float *weights, float *acc) {
    switch (dtype) {
        case RTP_CPU_F32: add_as(RTP_CPU_F32, heads, rows, dim, weights, acc); return;
        case RTP_CPU_F16: add_as(RTP_CPU_F16, heads, rows, dim, weights, acc); return;
        default: add_as(RTP_CPU_BF16, heads, rows, dim, weights, acc); return;
    }
}

/* ---- the loops over a context ---- */

/* Up to n tokens from t on, as many as lie in one block. */
static cached_rows rows_from(const rtp_cpu_kv *kv, int part, const int32_t *table, int64_t head, int64_t t, int64_t n) {
    int64_t block = t / kv->block_size, offset = t % kv->block_size;
    return (cached_rows){kv_at(kv, part, table[block], head, offset), NULL, min64(n, kv->block_size - offset),
                         kv->token_stride};
}

/* What one task reads: tokens [begin, end) of a request's context, of one kv head. */
typedef struct {
    int64_t request, kv_head, begin, end;
    const int32_t *table;
} span;

static span span_of(const job *j, int64_t task) {
    int64_t part = task % j->parts, r = task / j->parts / j->kv.heads, context = j->context_lens[r];
    int64_t length = div_up(context, j->parts * RUN) * RUN;
    return (span){r, task / j->parts % j->kv.heads, part * length, min64(context, (part + 1) * length),
                  j->block_tables + r * j->table_row};
}

static const void *first_key(const job *j, const span *s, int64_t t) {
    return t < s->end ? rows_from(&j->kv, KEY, s->table, s->kv_head, t, 1).first : NULL;
}

/* A span for the query heads of its kv head: acc [group, D], state [group]; scores [group, SCORES]. While keys are read
   their values are fetched, and with values the keys that come after them, be they of `next`. */
static void attend(const job *j, const span *now, const span *next, const float *q, float *acc, online *state,
                   float *scores) {
    const int64_t dim = j->kv.head_dim, h = now->kv_head;
    const int32_t *table = now->table;
    for (int64_t t = now->begin; t < now->end; t += RUN) {
        int64_t n = min64(RUN, now->end - t);
        cached_rows rows;
        for (int64_t i = 0; i < n; i += rows.count) {
            rows = rows_from(&j->kv, KEY, table, h, t + i, n - i);
            rows.ahead = rows_from(&j->kv, VALUE, table, h, t + i, n - i).first;
            for (int64_t g = 0; g < j->group; g += TILE_HEADS, rows.ahead = NULL)
                score(j->kv.dtype, (int)min64(TILE_HEADS, j->group - g), &rows, dim, q + g * dim, scores + g * SCORES + i);
        }
        for (int64_t g = 0; g < j->group; g++) {
            float keep = online_step(&state[g], scores + g * SCORES, n, j->scale);
            if (keep != 1) scale_row(acc + g * dim, dim, keep);
        }
        for (int64_t i = 0; i < n; i += rows.count) {
            rows = rows_from(&j->kv, VALUE, table, h, t + i, n - i);
            rows.ahead = t + RUN < now->end ? first_key(j, now, t + RUN + i) : first_key(j, next, next->begin + i);
            for (int64_t g = 0; g < j->group; g += TILE_HEADS, rows.ahead = NULL)
                add(j->kv.dtype, (int)min64(TILE_HEADS, j->group - g), &rows, dim, scores + g * SCORES + i, acc + g * dim);
        }
    }
}

static void finish(const job *j, int64_t r, int64_t head, float *acc, const online *state) {
    scale_row(acc, j->kv.head_dim, state->total == 0 ? 0 : 1 / state->total);
    store_f32(j->dtype, at_mut(j->out, j->dtype, r * j->out_token + head * j->out_head), j->kv.head_dim, acc);
}

static int64_t scratch_floats(int64_t group, int64_t dim) { return group * (2 * dim + 2 + SCORES); }

static void decode_tasks(void *argument, int64_t begin, int64_t end, void *scratch) {
    const job *j = argument;
    const int64_t dim = j->kv.head_dim, group = j->group;
    float *q = scratch, *acc = q + group * dim;
    online *state = (online *)(acc + group * dim);
    float *scores = (float *)(state + group);
    for (int64_t u = begin; u < end; u++) {
        const span now = span_of(j, u), next = u + 1 < end ? span_of(j, u + 1) : (span){0};
        const int64_t r = now.request, h = now.kv_head;
        for (int64_t g = 0; g < group; g++) {
            load_f32(j->dtype, at(j->q, j->dtype, r * j->q_token + (h * group + g) * j->q_head), dim, q + g * dim);
            state[g] = (online){-INFINITY, 0};
        }
        memset(acc, 0, (size_t)(group * dim) * 4);
        attend(j, &now, &next, q, acc, state, scores);
        for (int64_t g = 0; g < group; g++) {
            if (!j->partial) {
                finish(j, r, h * group + g, acc + g * dim, &state[g]);
                continue;
            }
            float *kept = j->partial + (u * group + g) * (dim + 2);
            memcpy(kept, acc + g * dim, (size_t)dim * 4);
            kept[dim] = state[g].top, kept[dim + 1] = state[g].total;
        }
    }
}

/* Parts of one context become one result: each is brought to the common top. */
static void merge_heads(void *argument, int64_t begin, int64_t end, void *scratch) {
    const job *j = argument;
    const int64_t dim = j->kv.head_dim;
    float *acc = scratch;
    for (int64_t u = begin; u < end; u++) {
        int64_t r = u / j->heads, head = u % j->heads, h = head / j->group, g = head % j->group;
        const float *first = j->partial + (((r * j->kv.heads + h) * j->parts) * j->group + g) * (dim + 2);
        int64_t step = j->group * (dim + 2);
        online state = {-INFINITY, 0};
        for (int64_t p = 0; p < j->parts; p++)
            if (first[p * step + dim] > state.top) state.top = first[p * step + dim];
        memset(acc, 0, (size_t)dim * 4);
        for (int64_t p = 0; p < j->parts; p++) {
            const float *kept = first + p * step;
            float weight = state.top == -INFINITY ? 1 : expf(kept[dim] - state.top);
            if (kept[dim + 1] == 0) continue; /* an empty part */
            state.total += weight * kept[dim + 1];
            for (int64_t d = 0; d < dim; d++) acc[d] += weight * kept[d];
        }
        finish(j, r, head, acc, &state);
    }
}

int KERNEL(decode_attention)(rtp_cpu_device *device, const rtp_cpu_kv *kv, int dtype, void *out, const void *q,
                             const int32_t *block_tables, int64_t table_row, const int32_t *context_lens,
                             int64_t requests, int64_t heads, int64_t out_token, int64_t out_head, int64_t q_token,
                             int64_t q_head, float scale) {
    if (!is_kv(kv) || !is_dtype(dtype) || kv->heads < 1 || heads % kv->heads) return RTP_CPU_BAD_ARGUMENT;
    int64_t longest = 0;
    for (int64_t r = 0; r < requests; r++) {
        if (!blocks_are_valid(kv, block_tables + r * table_row, table_row, context_lens[r]))
            return RTP_CPU_OUT_OF_RANGE;
        longest = max64(longest, context_lens[r]);
    }
    int64_t tasks = requests * kv->heads, wanted = 4 * (int64_t)rtp_pool_threads(device->pool);
    if (tasks == 0 || heads == 0) return RTP_CPU_OK;
    job j = {*kv,      dtype,   out,    q, block_tables, context_lens, table_row, heads, heads / kv->heads, out_token,
             out_head, q_token, q_head, 1, scale,        NULL};
    if (tasks < wanted) j.parts = max64(1, min64(div_up(wanted, tasks), longest / MIN_PART));
    /* Not for these parts, but the most that any number of requests has: memory measured for many must do for few. */
    int64_t kept = longest / MIN_PART > 1 ? 2 * wanted * j.group * (kv->head_dim + 2) * 4 : 0;
    void *shared;
    int status = rtp_pool_reserve(device->pool, kept, &shared, scratch_floats(j.group, kv->head_dim) * 4);
    if (status != RTP_CPU_OK) return status;
    if (j.parts > 1) j.partial = shared;
    rtp_pool_run(device->pool, decode_tasks, &j, tasks * j.parts,
                 grain_for(2 * j.group * div_up(longest, j.parts) * kv->head_dim));
    if (j.parts > 1) rtp_pool_run(device->pool, merge_heads, &j, requests * heads, requests * heads);
    return RTP_CPU_OK;
}
