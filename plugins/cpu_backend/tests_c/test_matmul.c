/* Float matrix products. */

#include "driver.h"

static void float_gemm(rtp_cpu_device *device, int dtype, int b_dtype, int trans_b, int64_t m, int64_t n, int64_t k) {
    enum { BATCH = 2 };
    tensor a = tensor_random(dtype, BATCH * m * k), b = tensor_random(b_dtype, n * k), bias = tensor_random(b_dtype, n);
    tensor out = tensor_random(dtype, BATCH * m * n);
    const int64_t offsets[] = {0, 0, 0, m * n, m * k, 0};
    require(!rtp_cpu_gemm(device, dtype, out.data, a.data, b_dtype, b.data, b_dtype, bias.data, trans_b, m, n, k, n, k,
                          trans_b ? k : n, BATCH, offsets),
            "gemm");
    tensor_read(&out);
    for (int64_t i = 0; i < BATCH * m * n; i++) {
        double y = bias.values[i % n];
        for (int64_t j = 0; j < k; j++)
            y += (double)a.values[i / n * k + j] * b.values[trans_b ? i % n * k + j : j * n + i % n];
        expect("gemm", &out, i, y, 1 + (double)k / 16);
    }
    tensor_free(&a), tensor_free(&b), tensor_free(&bias), tensor_free(&out);
}

void test_matmul(rtp_cpu_device *device) {
    static const int64_t cases[][3] = {{1, 1, 1},   {0, 2, 3},   {2, 0, 3},   {3, 5, 0},
                                       {1, 70, 33}, {4, 33, 65}, {5, 65, 17}, {31, 40, 50}};
    for (int dtype = RTP_CPU_F32; dtype <= RTP_CPU_BF16; dtype++)
        for (int b_dtype = RTP_CPU_F32; b_dtype <= (is_brief ? dtype : RTP_CPU_BF16); b_dtype++)
            for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++)
                for (int trans_b = 0; trans_b < 2; trans_b++)
                    float_gemm(device, dtype, b_dtype, trans_b, cases[i][0], cases[i][1], cases[i][2]);
}
