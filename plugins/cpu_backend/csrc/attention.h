/* Online softmax, shared by both attentions: one step over a short run of scores.
   Source: online normalizer calculation for softmax, arXiv:1805.02867. */

#ifndef RTP_CPU_ATTENTION_H
#define RTP_CPU_ATTENTION_H

#include <math.h>

#include "blocked_kv.h"
#include "vmath.h"

enum { RUN = 64 }; /* tokens of context per step */

typedef struct {
    float top, total; /* the largest score so far, and the sum of exp(score - top) */
} online;

/* scores[0..n) become exp(score * scale - new top). Returns what earlier sums must be multiplied with. */
INLINE float online_step(online *state, float *scores, int64_t n, float scale) {
    FOR_VECTORS (n) STORE(scores, vf_mul(LOAD(scores), vf_set1(scale)));
    float top = tile_max(scores, n, state->top), base = top == -INFINITY ? 0 : top;
    float keep = expf(state->top - base), part[VF];
    FOR_VECTORS (n) STORE(scores, vf_exp(vf_sub(LOAD(scores), vf_set1(base))));
    vf sum = vf_zero();
    FOR_VECTORS (n) sum = vf_add(sum, LOAD(scores));
    vf_store(part, sum);
    state->total = state->total * keep + vf_sum(sum);
    state->top = top;
    return keep;
}

INLINE void scale_row(float *x, int64_t n, float by) {
    FOR_VECTORS (n) STORE(x, vf_mul(LOAD(x), vf_set1(by)));
}

#endif
