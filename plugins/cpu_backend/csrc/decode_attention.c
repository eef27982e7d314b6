/* Attention of one query token per request: one task per request, kv head and, where those are few, part of the
   context. The query heads of a kv head share its loads. */

#include "attention.h"

enum { MIN_PART = 128 }; /* tokens: less is not worth another task */

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

/* acc[0..D) += sum_i weights[i] * rows[i]. */
static void add_rows(float *acc, const float *weights, const float *const *rows, int64_t n, int64_t dim) {
    int64_t d = 0;
    for (; d + 4 * VF <= dim; d += 4 * VF) {
        vf s[4];
        for (int v = 0; v < 4; v++) s[v] = vf_load(acc + d + v * VF);
        for (int64_t i = 0; i < n; i++) {
            vf w = vf_set1(weights[i]);
            for (int v = 0; v < 4; v++) s[v] = vf_fma(w, vf_load(rows[i] + d + v * VF), s[v]);
        }
        for (int v = 0; v < 4; v++) vf_store(acc + d + v * VF, s[v]);
    }
    for (; d < dim; d += VF) {
        int64_t width = min64(VF, dim - d);
        vf s = vf_loadn(acc + d, width);
        for (int64_t i = 0; i < n; i++) s = vf_fma(vf_set1(weights[i]), vf_loadn(rows[i] + d, width), s);
        vf_storen(acc + d, s, width);
    }
}

/* q . rows[i] of VF rows: each sums in a vector of its own, and all are summed up together. */
INLINE vf dots_of_tokens(const float *q, const float *const *rows, int64_t dim) {
    vf sums[VF];
    for (int i = 0; i < VF; i++) sums[i] = vf_zero();
    int64_t d = 0;
    for (; d + VF <= dim; d += VF) {
        vf x = vf_load(q + d);
#pragma GCC unroll 16
        for (int i = 0; i < VF; i++) sums[i] = vf_fma(x, vf_load(rows[i] + d), sums[i]);
    }
    if (d < dim) {
        vf x = vf_loadn(q + d, dim - d);
        for (int i = 0; i < VF; i++) sums[i] = vf_fma(x, vf_loadn(rows[i] + d, dim - d), sums[i]);
    }
    return vf_sums(sums);
}

/* rows[i] as f32: themselves, or converted into `converted` [n, dim]. */
static void rows_f32(int dtype, const void *const *rows, int64_t n, int64_t dim, float *converted,
                     const float **result) {
    for (int64_t i = 0; i < n; i++) {
        result[i] = rows[i];
        if (dtype == RTP_CPU_F32) continue;
        load_f32(dtype, rows[i], dim, converted + i * dim);
        result[i] = converted + i * dim;
    }
}

/* Tokens [begin, end) of request r's context for the query heads of kv head h: acc [group, D], state [group]. */
static void attend(const job *j, int64_t r, int64_t h, int64_t begin, int64_t end, const float *q, float *acc,
                   online *state, float *converted) {
    const int64_t dim = j->kv.head_dim;
    const int32_t *table = j->block_tables + r * j->table_row;
    for (int64_t t = begin; t < end; t += RUN) {
        const void *rows[RUN];
        const float *x[RUN];
        float scores[RUN];
        int64_t n = min64(RUN, end - t);
        float *weights = converted + RUN * dim; /* [group, RUN] */
        kv_rows(&j->kv, KEY, table, h, t, n, rows);
        rows_f32(j->kv.dtype, rows, n, dim, converted, x);
        for (int64_t i = n; i < div_up(n, VF) * VF; i++) x[i] = x[0]; /* scores of whole vectors of tokens */
        for (int64_t g = 0; g < j->group; g++) {
            for (int64_t i = 0; i < n; i += VF) vf_store(scores + i, dots_of_tokens(q + g * dim, x + i, dim));
            float keep = online_step(&state[g], scores, n, j->scale);
            scale_row(acc + g * dim, dim, keep);
            memcpy(weights + g * RUN, scores, (size_t)n * 4);
        }
        kv_rows(&j->kv, VALUE, table, h, t, n, rows);
        rows_f32(j->kv.dtype, rows, n, dim, converted, x);
        for (int64_t g = 0; g < j->group; g++) add_rows(acc + g * dim, weights + g * RUN, x, n, dim);
    }
}

static void finish(const job *j, int64_t r, int64_t head, float *acc, const online *state) {
    scale_row(acc, j->kv.head_dim, state->total == 0 ? 0 : 1 / state->total);
    store_f32(j->dtype, at_mut(j->out, j->dtype, r * j->out_token + head * j->out_head), j->kv.head_dim, acc);
}

static int64_t scratch_floats(int64_t group, int64_t dim) {
    return 2 * group * dim + 2 * group + RUN * dim + RUN * group;
}

static void decode_tasks(void *argument, int64_t begin, int64_t end, void *scratch) {
    const job *j = argument;
    const int64_t dim = j->kv.head_dim, group = j->group;
    float *q = scratch, *acc = q + group * dim;
    online *state = (online *)(acc + group * dim);
    float *converted = (float *)(state + group);
    for (int64_t u = begin; u < end; u++) {
        int64_t part = u % j->parts, h = u / j->parts % j->kv.heads, r = u / j->parts / j->kv.heads;
        int64_t context = j->context_lens[r], length = div_up(context, j->parts * RUN) * RUN;
        for (int64_t g = 0; g < group; g++) {
            load_f32(j->dtype, at(j->q, j->dtype, r * j->q_token + (h * group + g) * j->q_head), dim, q + g * dim);
            state[g] = (online){-INFINITY, 0};
        }
        memset(acc, 0, (size_t)(group * dim) * 4);
        attend(j, r, h, part * length, min64(context, (part + 1) * length), q, acc, state, converted);
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
                 grain_for(2 * j.group * div_up(longest, j.parts) * kv->head_dim / VF));
    if (j.parts > 1) rtp_pool_run(device->pool, merge_heads, &j, requests * heads, requests * heads);
    return RTP_CPU_OK;
}
