/* Linear layers over packed activations; see linear.c. */

#ifndef RTP_CPU_LINEAR_H
#define RTP_CPU_LINEAR_H

#include "packed.h"

/* out = a . w + bias; or, where `packed` is not NULL, activation(a . w + bias) to there. */
typedef struct {
    const packed_rows *a;
    const rtp_cpu_linear *layer;
    float *out; /* [rows, n] */
    int64_t out_row;
    const packed_rows *packed; /* without outliers; n is a multiple of 32 */
    int activation;
} linear_job;

void KERNEL(linear)(rtp_pool *pool, const linear_job *job);

#endif
