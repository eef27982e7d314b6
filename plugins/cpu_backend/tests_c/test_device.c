/* What a device does beside its kernels: it takes work space, does without, and rehearses. */

#include "driver.h"

enum { M = 9, N = 40, K = 64, TOP = 5, MANY = 100000, RESULTS = 6 };
enum { HEADS = 3, DIM = 16, BLOCKS = 10, BLOCK = 32, CONTEXT = 300 };

#define NOWHERE ((void *)64) /* an operand that is not there: to touch it is a fault */

static const int64_t sizes[RESULTS] = {M * TOP, M * N, M * N, HEADS * DIM, M * HEADS * DIM, M * N};

/* The kernels that take work space, the same numbers at `x` for every input. */
static int run_kernels(rtp_cpu_device *device, void *x, const tensor *out, int32_t *indices) {
    const int dtype = RTP_CPU_F16, scheme = RTP_CPU_Q8_0;
    int32_t *table = int32s(BLOCKS), length = CONTEXT, starts[] = {0, M};
    for (int i = 0; i < BLOCKS; i++) table[i] = i;
    rtp_cpu_kv kv = {x, dtype, BLOCKS, 1, BLOCK, DIM, 2 * BLOCK * DIM, BLOCK * DIM, BLOCK * DIM, DIM};
    int status = rtp_cpu_top_k(device, dtype, out[0].data, indices, x, M, K, TOP, K);
    if (!status) status = rtp_cpu_gemm(device, dtype, out[1].data, x, dtype, x, 0, NULL, 0, M, N, K, N, K, N, 1, NULL);
    if (!status) status = rtp_cpu_gemm_rows16(device, scheme, dtype, out[2].data, x, x, 0, NULL, M, N, K, N, K);
    if (!status) status = rtp_cpu_gemm_pairs16(device, dtype, out[5].data, x, x, 0, NULL, M, N, K, N, K);
    if (!status)
        status = rtp_cpu_decode_attention(device, &kv, dtype, out[3].data, x, table, BLOCKS, &length, 1, HEADS,
                                          HEADS * DIM, DIM, HEADS * DIM, DIM, 1);
    if (!status)
        status = rtp_cpu_context_attention(device, &kv, dtype, out[4].data, x, table, BLOCKS, &length, starts, 1, HEADS,
                                           HEADS * DIM, DIM, HEADS * DIM, DIM, 1);
    free(table);
    return status;
}

void test_device(int isa) {
    work_space space = {.is_exhausted = 1}, rehearsed = {0};
    rtp_cpu_device *device = rtp_cpu_device_create(isa, 3, 0, give_space, &space);
    rtp_cpu_device *twin = rtp_cpu_device_create(isa, 3, 1, give_space, &rehearsed);
    require(device && twin, "create");
    tensor x = tensor_random(RTP_CPU_F16, BLOCKS * 2 * BLOCK * DIM), out[RESULTS];
    int32_t *indices = int32s(M * TOP);
    for (int i = 0; i < RESULTS; i++) out[i] = tensor_random(RTP_CPU_F16, sizes[i]);

    require(!run_kernels(twin, NOWHERE, out, indices), "a rehearsal");
    for (int i = 0; i < RESULTS; i++) {
        tensor after = out[i];
        after.values = malloc((size_t)sizes[i] * sizeof *after.values);
        require(after.values != NULL, "memory");
        tensor_read(&after);
        require(!memcmp(after.values, out[i].values, (size_t)sizes[i] * sizeof *after.values), "nothing is computed");
        free(after.values);
    }
    for (int i = 0; i < M * TOP; i++) require(indices[i] == i % TOP, "indices that are there");

    require(run_kernels(device, x.data, out, indices) == RTP_CPU_OUT_OF_MEMORY, "no work space");
    space = (work_space){0};
    require(!run_kernels(device, x.data, out, indices), "work space again");
    require(space.bytes == rehearsed.bytes && space.times == rehearsed.times, "as much as rehearsed");
    require(!run_kernels(device, x.data, out, indices) && space.times == rehearsed.times, "there is enough now");

    space.is_exhausted = 1;
    tensor wide = tensor_random(RTP_CPU_F32, MANY);
    int32_t *order = int32s(MANY);
    require(
        rtp_cpu_top_k(device, RTP_CPU_F32, wide.data, order, wide.data, 1, MANY, MANY, MANY) == RTP_CPU_OUT_OF_MEMORY,
        "more work space than there is");
    space.is_exhausted = 0;
    require(!run_kernels(device, x.data, out, indices) && space.bytes == rehearsed.bytes, "as much as before");

    rtp_cpu_device_destroy(device), rtp_cpu_device_destroy(twin);
    free(space.block), free(rehearsed.block), free(indices), free(order);
    tensor_free(&x), tensor_free(&wide);
    for (int i = 0; i < RESULTS; i++) tensor_free(&out[i]);
}
