/* Element-wise kernels and those over rows, on rows without and with gaps. */

#include "driver.h"

static const int64_t sizes[] = {0, 1, 3, 16, 33, 515};
enum { SIZES = sizeof sizes / sizeof *sizes };

static double activated(int kind, double x) {
    switch (kind) {
        case RTP_CPU_GELU: return 0.5 * x * (1 + erf(x / sqrt(2)));
        case RTP_CPU_GELU_TANH: return 0.5 * x * (1 + tanh(0.7978845608 * (x + 0.044715 * x * x * x)));
        case RTP_CPU_RELU: return x > 0 ? x : 0;
        case RTP_CPU_SIGMOID: return 1 / (1 + exp(-x));
        case RTP_CPU_SILU: return x / (1 + exp(-x));
        default: return tanh(x);
    }
}

static void elementwise(rtp_cpu_device *device, int dtype, int64_t rows, int64_t cols, int64_t gap) {
    int64_t stride = cols + gap, count = rows ? rows * stride - gap : 0;
    tensor a = tensor_random(dtype, count), b = tensor_random(dtype, count), out = tensor_random(dtype, count);
    for (int op = 0; op < 2; op++) {
        require(!rtp_cpu_binary(device, op, dtype, out.data, a.data, b.data, rows, cols, stride, stride, stride, 1),
                "binary");
        tensor_read(&out);
        for (int64_t i = 0; i < rows * cols; i++) {
            int64_t p = i / cols * stride + i % cols;
            expect("binary", &out, p, op ? (double)a.values[p] * b.values[p] : (double)a.values[p] + b.values[p], 1e-3);
        }
        require(!rtp_cpu_binary(device, op, dtype, out.data, a.data, b.data, rows, cols, stride, stride, stride, 0),
                "column");
        require(!rtp_cpu_binary(device, op, dtype, out.data, a.data, b.data, rows, cols, stride, stride, 0, 1), "row");
    }
    for (int kind = RTP_CPU_GELU; kind <= RTP_CPU_TANH; kind++) {
        require(!rtp_cpu_activation(device, kind, dtype, out.data, a.data, rows, cols, stride, stride), "activation");
        tensor_read(&out);
        for (int64_t i = 0; i < rows * cols; i++) {
            int64_t p = i / cols * stride + i % cols;
            expect("activation", &out, p, activated(kind, a.values[p]), 0.01);
        }
        require(!rtp_cpu_gated_activation(device, kind, dtype, out.data, a.data, b.data, rows, cols, stride, stride,
                                          stride),
                "gated");
        tensor_read(&out);
        for (int64_t i = 0; i < rows * cols; i++) {
            int64_t p = i / cols * stride + i % cols;
            expect("gated_activation", &out, p, activated(kind, a.values[p]) * b.values[p], 0.01);
        }
    }
    for (int to = RTP_CPU_F32; to <= RTP_CPU_BF16; to++) {
        tensor other = tensor_random(to, count);
        require(!rtp_cpu_cast(device, to, other.data, dtype, a.data, rows, cols, stride, stride), "cast");
        tensor_read(&other);
        for (int64_t i = 0; i < rows * cols; i++) {
            int64_t p = i / cols * stride + i % cols;
            expect("cast", &other, p, a.values[p], 1e-4);
        }
        tensor_free(&other);
    }
    tensor_free(&a), tensor_free(&b), tensor_free(&out);
}

static void row_kernels(rtp_cpu_device *device, int dtype, int64_t rows, int64_t cols) {
    tensor x = tensor_random(dtype, rows * cols), residual = tensor_random(dtype, rows * cols);
    tensor out = tensor_random(dtype, rows * cols), sum = tensor_random(dtype, rows * cols);
    tensor w = tensor_random(dtype, cols), bias = tensor_random(dtype, cols), mask = tensor_random(RTP_CPU_F32, cols);
    for (int kind = 0; kind < 2; kind++) {
        require(!rtp_cpu_norm(device, kind, dtype, out.data, sum.data, x.data, residual.data, dtype, w.data,
                              kind ? bias.data : NULL, 1e-2f, rows, cols, cols, cols, cols, cols),
                "norm");
        tensor_read(&out), tensor_read(&sum);
        for (int64_t r = 0; r < rows; r++) {
            double mean = 0, squares = 0;
            const float *s = sum.values + r * cols;
            for (int64_t c = 0; kind && c < cols; c++) mean += s[c] / (double)cols;
            for (int64_t c = 0; c < cols; c++) squares += (s[c] - mean) * (s[c] - mean) / (double)cols;
            for (int64_t c = 0; c < cols; c++) {
                expect("sum", &sum, r * cols + c, (double)x.values[r * cols + c] + residual.values[r * cols + c], 1e-3);
                double y = (s[c] - mean) / sqrt(squares + 1e-2f) * w.values[c] + (kind ? bias.values[c] : 0);
                expect("norm", &out, r * cols + c, y, 2);
            }
        }
    }
    require(!rtp_cpu_softmax(device, dtype, out.data, x.data, mask.data, 1, 0.7f, 2.0f, rows, cols, cols, cols, cols),
            "softmax");
    tensor_read(&out);
    for (int64_t r = 0; r < rows; r++) {
        double total = 0;
        for (int pass = 0; pass < 2; pass++) {
            for (int64_t c = 0; c < cols; c++) {
                double e = exp(2 * tanh(x.values[r * cols + c] * 0.7f / 2.0) + mask.values[c]);
                if (pass) expect("softmax", &out, r * cols + c, e / total, 0.01);
                else total += e;
            }
        }
    }
    int64_t k = cols < 5 ? cols : 5;
    tensor values = tensor_random(dtype, rows * k);
    int32_t *ids = int32s(rows * k);
    require(!rtp_cpu_top_k(device, dtype, values.data, ids, x.data, rows, cols, k, cols), "top_k");
    tensor_read(&values);
    for (int64_t i = 0; i < rows * k; i++) {
        const float *row = x.values + i / k * cols;
        int64_t ahead = 0;
        for (int64_t c = 0; c < cols; c++) ahead += row[c] > row[ids[i]] || (row[c] == row[ids[i]] && c < ids[i]);
        require(ahead == i % k && values.values[i] == row[ids[i]], "top_k is in order");
    }
    require(rtp_cpu_top_k(device, dtype, values.data, ids, x.data, rows, cols, cols + 1, cols) == RTP_CPU_BAD_ARGUMENT,
            "k");
    free(ids);
    if (rows) {
        int32_t *picked = int32s(7);
        tensor rows_out = tensor_random(RTP_CPU_F32, 7 * cols);
        for (int i = 0; i < 7; i++) picked[i] = (int32_t)random_below(rows);
        require(
            !rtp_cpu_gather_rows(device, RTP_CPU_F32, rows_out.data, dtype, x.data, picked, 7, rows, cols, cols, cols),
            "gather");
        tensor_read(&rows_out);
        for (int64_t i = 0; i < 7 * cols; i++)
            expect("gather_rows", &rows_out, i, x.values[picked[i / cols] * cols + i % cols], 0);
        picked[3] = (int32_t)rows;
        require(rtp_cpu_gather_rows(device, RTP_CPU_F32, rows_out.data, dtype, x.data, picked, 7, rows, cols, cols,
                                    cols) == RTP_CPU_OUT_OF_RANGE,
                "a row outside the table");
        tensor_free(&rows_out);
        free(picked);
    }
    tensor_free(&x), tensor_free(&residual), tensor_free(&out), tensor_free(&sum);
    tensor_free(&w), tensor_free(&bias), tensor_free(&mask), tensor_free(&values);
}

/* What is drawn passes the filters; which one it is, the tests in Python compare with the definition. */
static void drawn(rtp_cpu_device *device, int64_t rows, int64_t cols) {
    tensor x = tensor_random(RTP_CPU_F32, rows * cols), top = tensor_random(RTP_CPU_F32, rows);
    int32_t *places = int32s(rows);
    float temperature[8], top_p[8], min_p[8];
    int64_t top_k[8];
    double uniforms[8];
    for (int64_t r = 0; r < rows; r++) {
        temperature[r] = (float)(random_below(3) + 1) / 2, top_p[r] = (float)(random_below(10) + 1) / 10;
        min_p[r] = (float)random_below(4) / 4, top_k[r] = random_below(3) * 5, uniforms[r] = (double)random_below(1000) / 1000;
    }
    require(!rtp_cpu_sample(device, top.data, places, x.data, temperature, top_k, top_p, min_p, uniforms, rows, cols, cols),
            "sample");
    tensor_read(&top);
    for (int64_t r = 0; r < rows; r++) {
        require(places[r] >= 0 && places[r] < cols, "a token of the row");
        const float *row = x.values + r * cols;
        int64_t ahead = 0;
        for (int64_t c = 0; c < cols; c++) ahead += row[c] > row[places[r]];
        require(!top_k[r] || ahead < top_k[r], "one of the best k");
        require(expf((row[places[r]] - top.values[r]) / temperature[r]) >= min_p[r] * 0.9999f, "probable enough");
    }
    tensor_free(&x), tensor_free(&top);
    free(places);
}

static void argmax(rtp_cpu_device *device, int64_t rows, int64_t cols, int64_t gap) {
    int64_t stride = cols + gap;
    tensor x = tensor_random(RTP_CPU_F32, rows ? rows * stride - gap : 0), top = tensor_random(RTP_CPU_F32, rows);
    int32_t *places = int32s(rows);
    float *data = x.data;
    for (int64_t i = 0; i < x.count; i++) data[i] = (float)(random_below(9) - 4); /* many ties */
    if (rows > 1)
        for (int64_t c = 0; c < cols; c++) data[stride + c] = -INFINITY;
    require(!greedy(device, top.data, places, x.data, rows, cols, stride), "argmax");
    tensor_read(&top);
    for (int64_t r = 0; r < rows; r++) {
        const float *row = data + r * stride;
        int64_t first = 0;
        for (int64_t c = 1; c < cols; c++) first = row[c] > row[first] ? c : first;
        require(places[r] == first && top.values[r] == row[first], "the first largest");
    }
    for (int64_t c = 0; rows && c < cols; c++) {
        const float kept = data[c];
        for (int is_nan = 0; is_nan < 2; is_nan++) {
            data[c] = is_nan ? NAN : INFINITY;
            require(!greedy(device, top.data, places, x.data, 1, cols, stride), "argmax");
            tensor_read(&top);
            require(isnan(top.values[0]) && places[0] >= 0 && places[0] < cols, "no largest number");
        }
        data[c] = kept;
    }
    tensor_free(&x), tensor_free(&top);
    free(places);
}

static void rope(rtp_cpu_device *device, int dtype, int64_t tokens, int64_t dim, int64_t half) {
    enum { HEADS = 3, POSITIONS = 9 };
    tensor x = tensor_random(dtype, tokens * HEADS * dim), out = tensor_random(dtype, tokens * HEADS * dim);
    tensor c = tensor_random(RTP_CPU_F32, POSITIONS * half), s = tensor_random(RTP_CPU_F32, POSITIONS * half);
    int32_t *positions = int32s(tokens);
    for (int64_t t = 0; t < tokens; t++) positions[t] = (int32_t)random_below(POSITIONS);
    require(!rtp_cpu_rope(device, dtype, out.data, x.data, c.data, s.data, positions, tokens, HEADS, dim, half,
                          POSITIONS, HEADS * dim, dim, HEADS * dim, dim),
            "rope");
    tensor_read(&out);
    for (int64_t i = 0; i < tokens * HEADS * dim; i++) {
        int64_t d = i % dim, pair = d < half ? d : d - half, angle = positions[i / dim / HEADS] * half + pair;
        double y = x.values[i];
        if (d < half) y = y * c.values[angle] - (double)x.values[i + half] * s.values[angle];
        else if (d < 2 * half) y = y * c.values[angle] + (double)x.values[i - half] * s.values[angle];
        expect("rope", &out, i, y, 0.5);
    }
    tensor_free(&x), tensor_free(&out), tensor_free(&c), tensor_free(&s);
    free(positions);
}

static void copies(rtp_cpu_device *device) {
    enum { A = 5, B = 3, C = 7 };
    tensor x = tensor_random(RTP_CPU_F32, A * B * C), y = tensor_random(RTP_CPU_F32, A * B * C);
    const int64_t shape[] = {C, A, 1, B}, from[] = {1, B * C, 99, C}, to[] = {A * B, B, 7, 1};
    require(!rtp_cpu_copy(device, 4, 4, shape, y.data, to, x.data, from), "copy");
    tensor_read(&y);
    for (int64_t a = 0; a < A; a++)
        for (int64_t b = 0; b < B; b++)
            for (int64_t c = 0; c < C; c++)
                expect("copy", &y, c * A * B + a * B + b, x.values[a * B * C + b * C + c], 0);
    const int64_t whole[] = {A * B * C * 4}, one[] = {1}, none[] = {0};
    require(!rtp_cpu_copy(device, 1, 1, whole, y.data, one, x.data, one), "copy of bytes");
    require(!memcmp(x.data, y.data, A * B * C * 4), "bytes are equal");
    require(!rtp_cpu_copy(device, 8, 1, none, NULL, one, NULL, one), "copy of nothing");
    require(rtp_cpu_copy(device, 3, 1, whole, y.data, one, x.data, one) == RTP_CPU_BAD_ARGUMENT, "odd item size");
    tensor_free(&x), tensor_free(&y);
}

void test_elements(rtp_cpu_device *device) {
    for (int dtype = RTP_CPU_F32; dtype <= RTP_CPU_BF16; dtype++) {
        for (int i = 0; i < SIZES; i++) {
            elementwise(device, dtype, i % 4, sizes[i] + (i == 0), 0);
            elementwise(device, dtype, 35, sizes[i] + (i == 0), 5);
            row_kernels(device, dtype, i % 4, sizes[i]);
            row_kernels(device, dtype, 65, sizes[i]);
            rope(device, dtype, sizes[i] % 40, 2 * sizes[i] + i, sizes[i]);
        }
    }
    for (int i = 1; i < SIZES; i++) {
        argmax(device, i % 4, sizes[i], 0);
        argmax(device, 65, sizes[i], 3);
        if (sizes[i]) drawn(device, 7, sizes[i]);
    }
    require(greedy(device, NULL, NULL, NULL, 0, 0, 0) == RTP_CPU_BAD_ARGUMENT, "argmax of no columns");
    copies(device);
    require(rtp_cpu_activation(device, 99, RTP_CPU_F32, NULL, NULL, 0, 0, 0, 0) == RTP_CPU_BAD_ARGUMENT,
            "unknown kind");
    require(rtp_cpu_cast(device, 7, NULL, 0, NULL, 0, 0, 0, 0) == RTP_CPU_BAD_ARGUMENT, "unknown dtype");
}
