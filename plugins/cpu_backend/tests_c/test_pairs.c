/* bf16 weights in layout pairs16: there and back, and their products. */

#include "driver.h"

enum { GAP = 3 }; /* elements between the rows of a plain weight */

static void round_to_bf16(tensor *a) {
    for (int64_t i = 0; i < a->count; i++) {
        uint16_t h = bf16_of(a->values[i]);
        a->values[i] = value_of(RTP_CPU_BF16, &h, 0);
    }
}

static void rows(rtp_cpu_device *device, const tensor *b, const uint16_t *packed, int64_t n, int64_t k) {
    enum { COUNT = 3 };
    int32_t *ids = int32s(COUNT);
    for (int i = 0; i < COUNT; i++) ids[i] = (int32_t)random_below(n);
    for (int dtype = RTP_CPU_F32; dtype <= RTP_CPU_BF16; dtype++) {
        tensor some = tensor_random(dtype, COUNT * k), all = tensor_random(dtype, n * k);
        require(!rtp_cpu_pairs16_unpack(device, dtype, some.data, packed, ids, COUNT, n, k, k), "rows");
        require(!rtp_cpu_pairs16_unpack(device, dtype, all.data, packed, NULL, n, n, k, k), "all rows");
        tensor_read(&some), tensor_read(&all);
        for (int64_t i = 0; i < COUNT * k; i++)
            expect("rows of pairs16", &some, i, b->values[ids[i / k] * (k + GAP) + i % k], 1e-3);
        for (int64_t i = 0; i < n * k; i++) expect("pairs16", &all, i, b->values[i / k * (k + GAP) + i % k], 1e-3);
        tensor_free(&some), tensor_free(&all);
    }
    ids[1] = (int32_t)n;
    require(rtp_cpu_pairs16_unpack(device, 0, NULL, packed, ids, COUNT, n, k, k) == RTP_CPU_OUT_OF_RANGE,
            "a row beyond");
    free(ids);
}

static void product(rtp_cpu_device *device, int rounds_activations, int dtype, int64_t m, int64_t n, int64_t k) {
    tensor b = tensor_random(RTP_CPU_BF16, n * (k + GAP)), a = tensor_random(dtype, m * k);
    tensor bias = tensor_random(dtype, n), out = tensor_random(dtype, m * n), alone = tensor_random(dtype, n);
    char *base;
    uint16_t *packed = bytes_at_odd_place(rtp_cpu_pairs16_bytes(n, k), &base);
    require(!rtp_cpu_pairs16_pack(device, packed, b.data, n, k, k + GAP), "pack");
    if (n) rows(device, &b, packed, n, k);
    require(!rtp_cpu_gemm_pairs16(device, dtype, out.data, a.data, packed, dtype, bias.data, m, n, k, n, k),
            "gemm_pairs16");
    tensor_read(&out);
    for (int64_t i = 0; i < m && !is_brief; i++) {
        const size_t size = dtype == RTP_CPU_F32 ? 4 : 2;
        require(!rtp_cpu_gemm_pairs16(device, dtype, alone.data, (char *)a.data + i * k * size, packed, dtype, bias.data,
                                      1, n, k, n, k),
                "a row alone");
        require(!memcmp(alone.data, (char *)out.data + i * n * size, n * size), "is the row among others");
    }
    if (rounds_activations) round_to_bf16(&a);
    for (int64_t i = 0; i < m * n; i++) {
        double y = bias.values[i % n], size = fabs(y);
        for (int64_t j = 0; j < k; j++) {
            double x = (double)a.values[i / n * k + j] * b.values[i % n * (k + GAP) + j];
            y += x, size += fabs(x);
        }
        expect("gemm_pairs16", &out, i, y, size);
    }
    tensor_free(&b), tensor_free(&a), tensor_free(&bias), tensor_free(&out), tensor_free(&alone), free(base);
}

/* inf and NaN reach their own row, also where columns are filled up. */
static void not_finite(rtp_cpu_device *device) {
    enum { M = 3, N = 17, K = 5 };
    float a[M * K], out[M * N];
    uint16_t b[N * K], *packed = malloc((size_t)rtp_cpu_pairs16_bytes(N, K));
    require(packed != NULL, "memory");
    for (int i = 0; i < M * K; i++) a[i] = 1;
    for (int i = 0; i < N * K; i++) b[i] = bf16_of(2);
    a[K] = INFINITY, a[3 * K - 1] = NAN;
    require(!rtp_cpu_pairs16_pack(device, packed, b, N, K, K), "pack");
    require(!rtp_cpu_gemm_pairs16(device, RTP_CPU_F32, out, a, packed, 0, NULL, M, N, K, N, K), "gemm_pairs16");
    for (int i = 0; i < N; i++)
        require(out[i] == 2 * K && out[N + i] == INFINITY && isnan(out[2 * N + i]), "inf and NaN in their rows");
    free(packed);
}

void test_pairs(rtp_cpu_device *device, int rounds_activations) {
    static const int64_t cases[][3] = {{0, 3, 2},  {2, 0, 3},  {3, 5, 0},   {1, 1, 1},  {1, 70, 33},  {4, 33, 64},
                                       {7, 16, 9}, {12, 40, 3}, {13, 17, 30}, {30, 31, 2}, {50, 5, 1030}};
    for (int dtype = RTP_CPU_F32; dtype <= RTP_CPU_BF16; dtype++)
        for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++)
            product(device, rounds_activations, dtype, cases[i][0], cases[i][1], cases[i][2]);
    not_finite(device);
    require(!rtp_cpu_pairs16_bytes(-1, 1) && !rtp_cpu_pairs16_bytes(1, -1), "no bytes of no weight");
    require(rtp_cpu_pairs16_pack(device, NULL, NULL, -1, 1, 1) == RTP_CPU_BAD_ARGUMENT, "rows below zero");
    require(rtp_cpu_gemm_pairs16(device, 3, NULL, NULL, NULL, 0, NULL, 1, 1, 1, 1, 1) == RTP_CPU_BAD_ARGUMENT,
            "a dtype");
}
