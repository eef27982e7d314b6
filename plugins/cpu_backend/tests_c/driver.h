/* What the tests share. A `tensor` is exactly as large as it must be and begins one element past an aligned address,
   so that a sanitizer sees any access outside of it; `values` are its numbers, rounded as stored. */

#ifndef DRIVER_H
#define DRIVER_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rtp_cpu.h"

typedef struct {
    char *base;
    void *data;
    float *values;
    int dtype;
    int64_t count;
} tensor;

/* Whether to leave sizes out: where kernels are slow or the same as others. */
extern int is_brief;

uint16_t bf16_of(float x); /* to nearest even; of a finite number */

/* Element i at p. */
float value_of(int dtype, const void *p, int64_t i);

tensor tensor_random(int dtype, int64_t count);
void tensor_free(tensor *t);
/* Read `data` back into `values`. */
void tensor_read(tensor *t);
float random_float(void); /* in [-1, 1] */
int64_t random_below(int64_t limit);
void *bytes_at_odd_place(int64_t count, char **base); /* aligned to 2 bytes only */
int32_t *int32s(int64_t count);

/* Ends the program where |got - expected| > tolerance of the dtype times (|expected| + scale). */
void expect(const char *what, const tensor *t, int64_t i, double expected, double scale);
void require(int condition, const char *what);

/* Where the work space of a device comes from: malloc, unless it is exhausted. */
typedef struct {
    char *block;
    int64_t bytes, times; /* of the block, and how often one was asked for */
    int is_exhausted;
} work_space;

/* rtp_cpu_sample of up to MAX_GREEDY rows at temperature 0: the first largest of each. */
enum { MAX_GREEDY = 128 };
int greedy(rtp_cpu_device *device, float *values, int32_t *indices, const float *x, int64_t rows, int64_t cols,
           int64_t x_row);

void *give_space(void *space, int64_t bytes); /* an rtp_cpu_scratch */

void test_device(int isa);
void test_pool(int isa);
void test_elements(rtp_cpu_device *device);
void test_matmul(rtp_cpu_device *device);
void test_pairs(rtp_cpu_device *device, int rounds_activations);
void test_quantized(rtp_cpu_device *device);
void test_attention(rtp_cpu_device *device);
void test_encoder(rtp_cpu_device *device);
void test_tape(rtp_cpu_device *device);

#endif
