/* Float and quantized matrix products, and the layouts of quantized weights. */

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

typedef struct {
    char *bases[3];
    uint8_t *payload;
    uint16_t *scales, *zeros;
} plain;

static plain plain_weight(int scheme, int64_t n, int64_t k) {
    plain w = {0};
    w.payload = bytes_at_odd_place(n * k / 32 * (scheme == RTP_CPU_Q8_0 ? 32 : 16), &w.bases[0]);
    w.scales = bytes_at_odd_place(n * k / 32 * 2, &w.bases[1]);
    if (scheme == RTP_CPU_Q4_1) w.zeros = bytes_at_odd_place(n * k / 32 * 2, &w.bases[2]);
    for (int64_t i = 0; i < n * k / 32; i++) { /* finite, below 1 */
        w.scales[i] &= 0xb3ff;
        if (w.zeros) w.zeros[i] &= 0xb3ff;
    }
    return w;
}

static void quantized(rtp_cpu_device *device, int scheme, int levels, int dtype, int64_t m, int64_t n, int64_t k) {
    plain w = plain_weight(scheme, n, k);
    int64_t packed_bytes = rtp_cpu_rows16_bytes(scheme, n, k);
    char *base;
    uint8_t *packed = bytes_at_odd_place(packed_bytes, &base);
    tensor numbers = tensor_random(RTP_CPU_F32, n * k), again = tensor_random(RTP_CPU_F32, n * k);
    require(
        !rtp_cpu_dequantize(device, scheme, RTP_CPU_F32, numbers.data, w.payload, w.scales, w.zeros, NULL, n, n, k, k),
        "dequantize");
    require(!rtp_cpu_rows16_pack(device, scheme, packed, w.payload, w.scales, w.zeros, n, k), "pack");
    require(!rtp_cpu_rows16_unpack(device, scheme, RTP_CPU_F32, again.data, packed, NULL, n, n, k, k), "unpack");
    require(!memcmp(numbers.data, again.data, (size_t)(n * k) * 4), "both layouts mean the same");
    tensor_read(&numbers);
    for (int64_t i = 0; i < n * k; i++) { /* the plain layout, spelt out */
        int64_t g = i / 32, j = i % 32;
        int code = scheme == RTP_CPU_Q8_0 ? (int8_t)w.payload[i] : w.payload[g * 16 + j % 16] >> (j / 16 * 4) & 15;
        tensor f16 = {.data = &w.scales[g], .values = (float[1]){0}, .dtype = RTP_CPU_F16, .count = 1};
        tensor_read(&f16);
        double y = (double)f16.values[0] * (code - (scheme == RTP_CPU_Q4_0 ? 8 : 0));
        if (w.zeros) f16.data = &w.zeros[g], tensor_read(&f16), y += f16.values[0];
        expect("dequantize", &numbers, i, y, 1e-3);
    }

    tensor a = tensor_random(dtype, m * k), bias = tensor_random(dtype, n), out = tensor_random(dtype, m * n);
    require(!rtp_cpu_gemm_rows16(device, scheme, levels, dtype, out.data, a.data, packed, dtype, bias.data, m, n, k, n,
                                 k),
            "gemm_rows16");
    tensor_read(&out);
    for (int64_t i = 0; i < m; i++) { /* activations as int8, in place */
        for (int64_t g = 0; g < k / 32; g++) {
            float *x = a.values + i * k + g * 32, top = 0;
            for (int j = 0; j < 32; j++) top = fmaxf(top, fabsf(x[j]));
            for (int j = 0; j < 32 && top > 0; j++) { /* in floats: a tie must fall to the same side */
                float scale = top / 127.0f, code = rintf(x[j] * (127.0f / top));
                float fine = rintf(fmaxf(-127, fminf(127, (x[j] - scale * code) / scale * 254.0f)));
                x[j] = (float)((double)scale * (levels == 2 ? code + (double)fine / 254 : code));
            }
        }
    }
    for (int64_t i = 0; i < m * n; i++) {
        double y = bias.values[i % n], size = 0;
        for (int64_t j = 0; j < k; j++) {
            y += (double)a.values[i / n * k + j] * numbers.values[i % n * k + j];
            size += fabs((double)a.values[i / n * k + j] * numbers.values[i % n * k + j]);
        }
        expect("gemm_rows16", &out, i, y, size + 0.01);
    }

    if (n) {
        int32_t *ids = int32s(3);
        tensor rows = tensor_random(dtype, 3 * k);
        for (int i = 0; i < 3; i++) ids[i] = (int32_t)random_below(n);
        require(!rtp_cpu_rows16_unpack(device, scheme, dtype, rows.data, packed, ids, 3, n, k, k), "rows");
        tensor_read(&rows);
        for (int64_t i = 0; i < 3 * k; i++)
            expect("rows of rows16", &rows, i, numbers.values[ids[i / k] * k + i % k], 1e-3);
        ids[1] = -1;
        require(
            rtp_cpu_rows16_unpack(device, scheme, dtype, rows.data, packed, ids, 3, n, k, k) == RTP_CPU_OUT_OF_RANGE,
            "row -1");
        tensor_free(&rows);
        free(ids);
    }
    require(!rtp_cpu_quantize(device, scheme, RTP_CPU_F32, w.payload, w.scales, w.zeros, numbers.data, n, k, k),
            "quantize");
    require(
        !rtp_cpu_dequantize(device, scheme, RTP_CPU_F32, again.data, w.payload, w.scales, w.zeros, NULL, n, n, k, k),
        "again");
    tensor_read(&again);
    for (int64_t g = 0; g < n * k / 32; g++) {
        float low = 0, high = 0;
        for (int j = 0; j < 32; j++) {
            low = fminf(low, numbers.values[g * 32 + j]);
            high = fmaxf(high, numbers.values[g * 32 + j]);
        }
        for (int j = 0; j < 32; j++) /* within one step; 4-bit symmetric codes lack one at the far end */
            require(fabsf(again.values[g * 32 + j] - numbers.values[g * 32 + j]) <= (high - low) / 8 + 1e-3f,
                    "quantize is near");
    }
    for (int i = 0; i < 3; i++) free(w.bases[i]);
    free(base);
    tensor_free(&numbers), tensor_free(&again), tensor_free(&a), tensor_free(&bias), tensor_free(&out);
}

void test_matmul(rtp_cpu_device *device) {
    static const int64_t cases[][3] = {{1, 1, 1},   {0, 2, 3},   {2, 0, 3},   {3, 5, 0},
                                       {1, 70, 33}, {4, 33, 65}, {5, 65, 17}, {31, 40, 50}};
    for (int dtype = RTP_CPU_F32; dtype <= RTP_CPU_BF16; dtype++)
        for (int b_dtype = RTP_CPU_F32; b_dtype <= RTP_CPU_BF16; b_dtype++)
            for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++)
                for (int trans_b = 0; trans_b < 2; trans_b++)
                    float_gemm(device, dtype, b_dtype, trans_b, cases[i][0], cases[i][1], cases[i][2]);
    static const int64_t quantized_cases[][3] = {{0, 3, 32},   {1, 0, 32},   {1, 1, 32}, {1, 37, 96},
                                                 {13, 16, 64}, {31, 33, 64}, {2, 5, 0}};
    for (int scheme = RTP_CPU_Q4_0; scheme <= RTP_CPU_Q8_0; scheme++)
        for (int dtype = RTP_CPU_F32; dtype <= RTP_CPU_BF16; dtype++)
            for (unsigned i = 0; i < sizeof quantized_cases / sizeof *quantized_cases; i++)
                for (int levels = 1; levels <= 2; levels++)
                    quantized(device, scheme, levels, dtype, quantized_cases[i][0], quantized_cases[i][1],
                              quantized_cases[i][2]);
    require(rtp_cpu_gemm_rows16(device, 0, 1, 0, NULL, NULL, NULL, 0, NULL, 1, 1, 33, 1, 33) == RTP_CPU_BAD_ARGUMENT,
            "K of 33");
}
