/* Attention of one tile of queries with both products of int16 codes, which are exact in int32: for keys and values of
   16 bits, which have no more digits than the codes.

   A query and a key have a scale each that makes them LENGTH long as vectors: so their product fits, whatever sums on
   the way do. A value's scale is a power of 2 and goes into its weight: 2^(score + exponent) is what is rounded, relative
   to the largest of a run and a query. So a result depends on nothing that its query does not see. The sum of weights is
   of those before rounding. */

#ifndef RTP_CPU_CONTEXT_WORDS_H
#define RTP_CPU_CONTEXT_WORDS_H

#include <math.h>

#include "context_job.h"
#include "words.h"

#if HAVE_WORDS

#define LENGTH 32767.0f /* of the codes of a query and of a key, as vectors */
enum { VALUE_BITS = 12 }; /* RUN products of a weight and a value stay below 2^31 */
#define LOG2_WEIGHT 12.9998239f /* of 8191, the largest weight */
#define SHORTEST 1e-12f /* what is shorter has the scale of this */

typedef struct {
    int32_t *q; /* [pairs, rows], columns are queries; numbers d and d + pairs are a pair */
    int32_t *keys; /* [RUN, key_row], paired as queries are */
    int32_t *values; /* [RUN / 2, padded D], tokens t and t + 1 are a pair */
    int32_t *weights; /* [RUN / 2, rows], paired as values are */
    float *scores; /* [RUN, NR] */
    float *sums; /* [rows, padded D] */
    float *columns; /* [D, NR]: queries before they are codes */
    float *lines[2]; /* rows of keys or values, in front of zeros */
    float *key_scale, *value_exponent, *value_inverse; /* [RUN] */
    float *q_scale, *seen; /* [rows] */
    float *top, *total; /* [rows]: the largest exponent so far, the sum of the weights relative to it */
    float *keep, *factor; /* [rows]: what sums shrink by, and what a run's sums are multiplied with */
    int64_t pairs, key_row;
} words_work;

/* Floats of a row of keys or values: pairs of a key end within it, whole vectors of them. */
static int64_t line_floats(const job *j) { return j->padded_dim + 2 * NR; }

static int64_t words_scratch(const job *j) {
    const int64_t rows = j->max_rows, pairs = div_up(j->kv.head_dim, 2), key_row = div_up(pairs, VF) * VF;
    int64_t of_rows = pairs + RUN / 2 + j->padded_dim + 6, of_tokens = key_row + NR + 3;
    int64_t lines = NR * j->kv.head_dim + 2 * line_floats(j);
    return 4 * (rows * of_rows + RUN * of_tokens + RUN / 2 * j->padded_dim + lines);
}

static words_work lay_out_words(const job *j, void *scratch) {
    const int64_t rows = j->max_rows;
    words_work w = {.pairs = div_up(j->kv.head_dim, 2)};
    w.key_row = div_up(w.pairs, VF) * VF;
    w.q = scratch;
    w.weights = w.q + w.pairs * rows;
    w.keys = w.weights + RUN / 2 * rows;
    w.values = w.keys + RUN * w.key_row;
    w.scores = (float *)(w.values + RUN / 2 * j->padded_dim);
    w.sums = w.scores + RUN * NR;
    w.columns = w.sums + rows * j->padded_dim;
    w.lines[0] = w.columns + j->kv.head_dim * NR;
    w.lines[1] = w.lines[0] + line_floats(j);
    w.key_scale = w.lines[1] + line_floats(j);
    w.value_exponent = w.key_scale + RUN;
    w.value_inverse = w.value_exponent + RUN;
    w.q_scale = w.value_inverse + RUN;
    w.seen = w.q_scale + rows;
    w.top = w.seen + rows;
    w.total = w.top + rows;
    w.keep = w.total + rows;
    w.factor = w.keep + rows;
    return w;
}

/* The bits of the largest magnitude of a row, which are those of NaN or inf where there is one. */
static uint32_t largest_bits(const float *x, int64_t n) {
    words top = words_zero();
    FOR_VECTORS (n) top = words_larger(top, LOAD(x));
    return words_largest(top);
}

static void load_key(const words_work *w, const float *x, int64_t dim, int64_t i) {
    float length = sqrtf(dot_f32(x, x, dim));
    length = length < SHORTEST ? SHORTEST : length;
    vf inverse = vf_set1(LENGTH / length);
    w->key_scale[i] = length / LENGTH;
    for (int64_t p = 0; p < w->pairs; p += VF) {
        vf first = vf_mul(vf_load(x + p), inverse), second = vf_mul(vf_load(x + w->pairs + p), inverse);
        words_store(w->keys + i * w->key_row + p, words_of(first, second));
    }
}

/* 2^exponent, token i's scale, is the least that brings its value to VALUE_BITS; NaN where the value is not finite. */
static void find_value_scale(const words_work *w, const float *x, int64_t dim, int64_t i) {
    uint32_t bits = largest_bits(x, dim);
    int exponent = (int)(bits >> 23) - 127 + 1 - VALUE_BITS;
    if (exponent < -60) exponent = -60;
    uint32_t inverse = (uint32_t)(127 - exponent) << 23;
    memcpy(&w->value_inverse[i], &inverse, 4);
    w->value_exponent[i] = bits < 0x7f800000u ? (float)exponent : NAN;
}

/* Keys and values of tokens [t, t + n) of a kv head as codes. */
static void load_words_run(const job *j, const item *it, int64_t t, int64_t n, const words_work *w) {
    const int64_t dim = j->kv.head_dim;
    const void *keys[RUN], *values[RUN];
    find_run(j, it, t, n, keys, values);
    for (int64_t i = 0; i < n; i++) {
        load_f32(j->kv.dtype, keys[i], dim, w->lines[0]);
        load_key(w, w->lines[0], dim, i);
    }
    for (int64_t i = 0; i < n; i += 2) {
        vf inverse[2] = {vf_zero(), vf_zero()};
        for (int64_t k = 0; k < 2; k++) {
            if (i + k == n) {
                memset(w->lines[k], 0, (size_t)dim * 4);
                w->value_inverse[n] = 0;
                break;
            }
            load_f32(j->kv.dtype, values[i + k], dim, w->lines[k]);
            find_value_scale(w, w->lines[k], dim, i + k);
            inverse[k] = vf_set1(w->value_inverse[i + k]);
        }
        for (int64_t d = 0; d < j->padded_dim; d += VF) {
            vf first = vf_mul(vf_load(w->lines[0] + d), inverse[0]);
            vf second = vf_mul(vf_load(w->lines[1] + d), inverse[1]);
            words_store(w->values + i / 2 * j->padded_dim + d, words_of(first, second));
        }
    }
}

/* Queries [row, row + NR) as codes. */
static void load_words_columns(const job *j, const item *it, int64_t row, int64_t rows, const words_work *w) {
    const int64_t dim = j->kv.head_dim;
    load_columns(j, it, row, rows, w->columns, NR, w->seen + row);
    for (int64_t c = 0; c < NR; c += VF) {
        const float *x = w->columns + c;
        vf squares = vf_zero(), shortest = vf_set1(SHORTEST);
        for (int64_t d = 0; d < dim; d++) squares = vf_fma(vf_load(x + d * NR), vf_load(x + d * NR), squares);
        vf length = vf_sqrt(squares);
        length = vf_if_less(length, shortest, shortest, length);
        vf inverse = vf_div(vf_set1(LENGTH), length);
        vf_store(w->q_scale + row + c, vf_mul(length, vf_set1(1 / LENGTH)));
        for (int64_t p = 0; p < w->pairs; p++) {
            int64_t second = p + w->pairs;
            vf last = second < dim ? vf_mul(vf_load(x + second * NR), inverse) : vf_zero();
            words_store(w->q + p * j->max_rows + row + c, words_of(vf_mul(vf_load(x + p * NR), inverse), last));
        }
    }
}

/* Scores [n, NR queries from `row`] of tokens t.. become weights. */
INLINE void weigh_run(const job *j, const words_work *w, int64_t row, int64_t t, int64_t n, const int is_cut) {
    const vf lowest = vf_set1(-INFINITY), least = vf_set1(LEAST);
    vf scale[2], seen[2], top[2], base[2], total[2];
    for (int h = 0; h < 2; h++) {
        scale[h] = vf_load(w->q_scale + row + h * VF), seen[h] = vf_load(w->seen + row + h * VF);
        top[h] = lowest, total[h] = vf_zero();
    }
    for (int64_t i = 0; i < n; i++) {
        vf exponent = vf_set1(w->value_exponent[i]), token = vf_set1((float)(t + i));
        for (int h = 0; h < 2; h++) {
            float *score = w->scores + i * NR + h * VF;
            vf s = vf_fma(vf_load(score), scale[h], exponent);
            if (is_cut) s = vf_if_less(token, seen[h], s, lowest);
            vf_store(score, s);
            top[h] = vf_max(s, top[h]);
        }
    }
    for (int h = 0; h < 2; h++) base[h] = vf_sub(vf_if_less(lowest, top[h], top[h], vf_zero()), vf_set1(LOG2_WEIGHT));
    if (n % 2)
        for (int h = 0; h < 2; h++) vf_store(w->scores + n * NR + h * VF, lowest);
    for (int64_t i = 0; i < n; i += 2) {
        for (int h = 0; h < 2; h++) {
            vf e[2];
            for (int k = 0; k < 2; k++) {
                e[k] = vf_sub(vf_load(w->scores + (i + k) * NR + h * VF), base[h]);
                e[k] = vf_exp2_near(vf_max(least, e[k]));
                if (is_cut) e[k] = vf_if_less(vf_set1((float)(t + i + k)), seen[h], e[k], vf_zero());
                total[h] = vf_fma(e[k], vf_set1(w->value_inverse[i + k]), total[h]);
            }
            words_store(w->weights + i / 2 * j->max_rows + row + h * VF, words_of(e[0], e[1]));
        }
    }
    for (int h = 0; h < 2; h++) {
        int64_t at_row = row + h * VF;
        vf before = vf_load(w->top + at_row), after = vf_max(top[h], before);
        vf keep = vf_exp2_within(vf_max(least, vf_sub(before, after)));
        vf factor = vf_exp2_within(vf_max(least, vf_sub(top[h], after)));
        keep = vf_if_less(lowest, before, keep, vf_zero()), factor = vf_if_less(lowest, top[h], factor, vf_zero());
        vf_store(w->keep + at_row, keep);
        vf_store(w->factor + at_row, factor);
        vf_store(w->total + at_row, vf_fma(vf_load(w->total + at_row), keep, vf_mul(total[h], factor)));
        vf_store(w->top + at_row, after);
    }
}

static void weigh(const job *j, const words_work *w, int64_t row, int64_t t, int64_t n, int is_cut) {
    if (is_cut) weigh_run(j, w, row, t, n, 1);
    else weigh_run(j, w, row, t, n, 0);
}

static void attend_words(const job *j, const item *it, const words_work *w) {
    const int64_t padded = j->padded_dim, rows = it->count * j->group, step = j->max_rows;
    for (int64_t row = 0; row < rows; row += NR) load_words_columns(j, it, row, rows, w);
    for (int64_t row = 0; row < div_up(rows, NR) * NR; row++) w->top[row] = -INFINITY, w->total[row] = 0;
    memset(w->sums, 0, (size_t)(rows * padded) * 4);
    int64_t fewest = (int64_t)w->seen[0], most = (int64_t)w->seen[rows - 1];
    for (int64_t t = 0; t < most; t += RUN) {
        int64_t n = min64(RUN, most - t), first = 0;
        load_words_run(j, it, t, n, w);
        while (w->seen[first] <= (float)t) first++; /* queries that see nothing here */
        for (int64_t col = first / NR * NR; col < rows; col += NR) { /* weighed while they are in the first cache */
            for (int64_t m = 0; m < n; m += MR)
                words_tile((int)min64(MR, n - m), w->pairs, w->keys + m * w->key_row, w->key_row, 1, w->q + col, step,
                           w->key_scale + m, NULL, w->scores + m * NR, NR);
            weigh(j, w, col, t, n, t + n > fewest);
        }
        for (int64_t col = 0; col < padded; col += NR)
            for (int64_t m = first; m < rows; m += MR)
                words_tile((int)min64(MR, rows - m), div_up(n, 2), w->weights + m, 1, step, w->values + col, padded,
                           w->factor + m, w->keep + m, w->sums + m * padded + col, padded);
    }
    store_rows(j, it, rows, w->sums, w->total);
}

static void attend_words_items(void *argument, int64_t begin, int64_t end, void *scratch) {
    const job *j = argument;
    words_work w = lay_out_words(j, scratch);
    for (int k = 0; k < 2; k++) memset(w.lines[k], 0, (size_t)line_floats(j) * 4); /* numbers from D on stay zero */
    for (int64_t u = begin; u < end; u++) attend_words(j, &j->items[u], &w);
}

#endif

#endif
