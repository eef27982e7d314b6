/* Matrix products with quantized weights, and the layouts of these, in every scheme. */

#include "driver.h"

enum { GROUP = 32, SUPER = 256, ROWS = 16, FORMS = 8 };

/* The schemes of rtp_cpu.h, spelt out. */
typedef struct {
    int bits, offset, group, is_asymmetric, is_super;
} form;

static const form forms[FORMS] = {
    [RTP_CPU_Q4_0] = {4, 8, 32, 0, 0},  [RTP_CPU_Q4_1] = {4, 0, 32, 1, 0}, [RTP_CPU_Q8_0] = {8, 0, 32, 0, 0},
    [RTP_CPU_Q5_0] = {5, 16, 32, 0, 0}, [RTP_CPU_Q5_1] = {5, 0, 32, 1, 0}, [RTP_CPU_Q4_K] = {4, 0, 32, 1, 1},
    [RTP_CPU_Q5_K] = {5, 0, 32, 1, 1},  [RTP_CPU_Q6_K] = {6, 32, 16, 0, 1},
};

typedef struct {
    char *bases[5];
    rtp_cpu_plain parts;
} weight;

static uint16_t *small_halves(int64_t count, char **base) { /* finite, below 1 */
    uint16_t *halves = bytes_at_odd_place(2 * count, base);
    for (int64_t i = 0; i < count; i++) halves[i] &= 0xb3ff;
    return halves;
}

static weight random_weight(form f, int64_t elements) {
    weight w = {0};
    int64_t groups = elements / f.group, bytes = f.bits == 4 ? elements / 2 : elements;
    w.parts.payload = bytes_at_odd_place(bytes, &w.bases[0]);
    for (int64_t i = 0; f.bits > 4 && i < bytes; i++) w.parts.payload[i] &= (uint8_t)((1 << f.bits) - 1);
    for (int zeros = 0; zeros <= f.is_asymmetric; zeros++) {
        char **bases = w.bases + 1 + 2 * zeros;
        void *numbers = f.is_super ? bytes_at_odd_place(groups, bases) : (void *)small_halves(groups, bases);
        uint16_t *factors = f.is_super ? small_halves(elements / SUPER, bases + 1) : NULL;
        if (zeros) w.parts.zeros = numbers, w.parts.zero_factors = factors;
        else w.parts.scales = numbers, w.parts.scale_factors = factors;
    }
    return w;
}

static void weight_free(weight *w) {
    for (int i = 0; i < 5; i++) free(w->bases[i]);
}

/* The same parts side by side, group by group, with a byte pair of something else between groups. `base`: its memory. */
static rtp_cpu_plain in_blocks(form f, const rtp_cpu_plain *p, int64_t elements, char **base) {
    int64_t groups = elements / f.group, codes = f.bits == 4 ? f.group / 2 : f.group;
    rtp_cpu_plain to = {.block_bytes = 2 + 2 * f.is_asymmetric + codes + 2};
    uint8_t *block = bytes_at_odd_place(groups * to.block_bytes, base);
    to.scales = block, to.zeros = f.is_asymmetric ? block + 2 : NULL, to.payload = block + 2 + 2 * f.is_asymmetric;
    for (int64_t g = 0; g < groups; g++) {
        memcpy((char *)to.scales + g * to.block_bytes, (const char *)p->scales + 2 * g, 2);
        if (f.is_asymmetric) memcpy((char *)to.zeros + g * to.block_bytes, (const char *)p->zeros + 2 * g, 2);
        memcpy(to.payload + g * to.block_bytes, p->payload + g * codes, (size_t)codes);
    }
    return to;
}

/* Element i, and the size of what it is the sum of. */
static double element(form f, const rtp_cpu_plain *p, int64_t i, double *size) {
    int64_t g = i / f.group, j = i % f.group;
    const uint8_t *codes = p->payload + g * (f.bits == 4 ? f.group / 2 : f.group);
    int code = f.bits == 8 ? (int8_t)codes[j] : f.bits == 4 ? codes[j % 16] >> (j / 16 * 4) & 15 : codes[j];
    double scale, zero = 0;
    if (f.is_super) {
        scale = value_of(RTP_CPU_F16, p->scale_factors, i / SUPER);
        scale *= f.is_asymmetric ? ((const uint8_t *)p->scales)[g] : ((const int8_t *)p->scales)[g];
        if (f.is_asymmetric) zero = value_of(RTP_CPU_F16, p->zero_factors, i / SUPER) * ((const uint8_t *)p->zeros)[g];
    } else {
        scale = value_of(RTP_CPU_F16, p->scales, g);
        if (f.is_asymmetric) zero = value_of(RTP_CPU_F16, p->zeros, g);
    }
    *size = fabs(scale * (code - f.offset)) + fabs(zero);
    return scale * (code - f.offset) + zero;
}

/* Activations as the kernel sees them, in place: int8 in groups of 32. */
static void quantize_activations(tensor *a) {
    for (float *x = a->values; x < a->values + a->count; x += GROUP) {
        float top = 0;
        for (int j = 0; j < GROUP; j++) top = fmaxf(top, fabsf(x[j]));
        for (int j = 0; j < GROUP && top > 0; j++) { /* in floats: a tie must fall to the same side */
            float scale = top / 127.0f, code = rintf(x[j] * (127.0f / top));
            x[j] = scale * code;
        }
    }
}

static void product(rtp_cpu_device *device, int scheme, int dtype, const uint8_t *packed,
                    const float *numbers, const double *sizes, int64_t m, int64_t n, int64_t k) {
    tensor a = tensor_random(dtype, m * k), bias = tensor_random(dtype, n), out = tensor_random(dtype, m * n);
    require(!rtp_cpu_gemm_rows16(device, scheme, dtype, out.data, a.data, packed, dtype, bias.data, m, n, k, n, k),
            "gemm_rows16");
    tensor_read(&out);
    quantize_activations(&a);
    for (int64_t i = 0; i < m * n; i++) {
        double y = bias.values[i % n], size = 0;
        const float *x = a.values + i / n * k, *row = numbers + i % n * k;
        const double *row_sizes = sizes + i % n * k;
        for (int64_t j = 0; j < k; j++) {
            y += (double)x[j] * row[j];
            size += fabs((double)x[j]) * row_sizes[j];
        }
        expect("gemm_rows16", &out, i, y, size + 0.01);
    }
    tensor_free(&a), tensor_free(&bias), tensor_free(&out);
}

/* Gate and up are the halves of a weight: what the product and then the activation give, to the bit. */
static void gated(rtp_cpu_device *device, int scheme, const uint8_t *packed, int64_t m, int64_t n, int64_t k) {
    const int64_t half = n / 2;
    tensor a = tensor_random(RTP_CPU_F32, m * k), bias = tensor_random(RTP_CPU_F32, n);
    tensor both = tensor_random(RTP_CPU_F32, m * n), expected = tensor_random(RTP_CPU_F32, m * half);
    tensor out = tensor_random(RTP_CPU_F32, m * half);
    require(!rtp_cpu_gemm_rows16(device, scheme, RTP_CPU_F32, both.data, a.data, packed, RTP_CPU_F32, bias.data, m, n, k,
                                 n, k),
            "gemm_rows16");
    for (int kind = RTP_CPU_GELU; kind <= RTP_CPU_TANH; kind++) {
        require(!rtp_cpu_gated_activation(device, kind, RTP_CPU_F32, expected.data, both.data, (float *)both.data + half, m,
                                          half, half, n, n),
                "gated_activation");
        require(!rtp_cpu_gated_gemm_rows16(device, scheme, kind, RTP_CPU_F32, out.data, a.data, packed, RTP_CPU_F32,
                                           bias.data, m, half, k, half, k),
                "gated_gemm_rows16");
        require(!memcmp(out.data, expected.data, (size_t)(m * half) * 4), "a gated product is a product, gated");
    }
    tensor_free(&a), tensor_free(&bias), tensor_free(&both), tensor_free(&expected), tensor_free(&out);
}

static void rows(rtp_cpu_device *device, int scheme, int dtype, const weight *w, const uint8_t *packed,
                 const float *numbers, int64_t n, int64_t k) {
    enum { COUNT = 3 };
    int32_t *ids = int32s(COUNT);
    tensor some = tensor_random(dtype, COUNT * k);
    for (int i = 0; i < COUNT; i++) ids[i] = (int32_t)random_below(n);
    for (int is_packed = 0; is_packed < 2; is_packed++) {
        for (int is_good = 1; is_good >= 0; is_good--) {
            int32_t kept = ids[1];
            if (!is_good) ids[1] = is_packed ? -1 : (int32_t)n;
            int status = is_packed ? rtp_cpu_rows16_unpack(device, scheme, dtype, some.data, packed, ids, COUNT, n, k, k)
                                   : rtp_cpu_dequantize(device, scheme, dtype, some.data, &w->parts, ids, COUNT, n, k, k);
            require(status == (is_good ? RTP_CPU_OK : RTP_CPU_OUT_OF_RANGE), "rows of a quantized weight");
            ids[1] = kept;
        }
        tensor_read(&some);
        for (int64_t i = 0; i < COUNT * k; i++)
            expect("rows of a quantized weight", &some, i, numbers[ids[i / k] * k + i % k], 1e-3);
    }
    tensor_free(&some);
    free(ids);
}

/* Numbers quantized are within an eighth of what their group spans: codes of 4 bits lack one at the far end, and scales
   that are whole numbers are off by a 126th of the largest. */
static void quantize(rtp_cpu_device *device, int scheme, tensor *numbers, weight *w, int64_t n, int64_t k) {
    tensor again = tensor_random(RTP_CPU_F32, n * k);
    require(!rtp_cpu_quantize(device, scheme, RTP_CPU_F32, &w->parts, numbers->data, n, k, k), "quantize");
    require(!rtp_cpu_dequantize(device, scheme, RTP_CPU_F32, again.data, &w->parts, NULL, n, n, k, k), "again");
    tensor_read(&again);
    const int64_t unit = forms[scheme].is_super ? SUPER : GROUP;
    for (int64_t first = 0; first < n * k; first += unit) {
        float low = 0, high = 0;
        for (int64_t i = first; i < first + unit; i++) {
            low = fminf(low, numbers->values[i]);
            high = fmaxf(high, numbers->values[i]);
        }
        for (int64_t i = first; i < first + unit; i++)
            require(fabsf(again.values[i] - numbers->values[i]) <= (high - low) / 8 + 1e-3f, "quantize is near");
    }
    tensor_free(&again);
}

static void blocks_mean_the_same(rtp_cpu_device *device, int scheme, const rtp_cpu_plain *parts, const uint8_t *packed,
                                 const void *numbers, int64_t n, int64_t k) {
    char *bases[2];
    rtp_cpu_plain blocks = in_blocks(forms[scheme], parts, n * k, &bases[0]);
    int64_t bytes = rtp_cpu_rows16_bytes(scheme, n, k);
    uint8_t *again = bytes_at_odd_place(bytes, &bases[1]);
    tensor values = tensor_random(RTP_CPU_F32, n * k);
    require(!rtp_cpu_rows16_pack(device, scheme, again, &blocks, n, k), "pack blocks");
    require(!memcmp(packed, again, (size_t)bytes), "blocks are packed as parts are");
    require(!rtp_cpu_dequantize(device, scheme, RTP_CPU_F32, values.data, &blocks, NULL, n, n, k, k), "dequantize blocks");
    require(!memcmp(numbers, values.data, (size_t)(n * k) * 4), "blocks are numbers as parts are");
    tensor_free(&values), free(bases[0]), free(bases[1]);
}

static void quantized(rtp_cpu_device *device, int scheme, int dtype, int64_t m, int64_t n, int64_t k) {
    const form f = forms[scheme];
    weight w = random_weight(f, n * k);
    char *base;
    uint8_t *packed = bytes_at_odd_place(rtp_cpu_rows16_bytes(scheme, n, k), &base);
    tensor numbers = tensor_random(RTP_CPU_F32, n * k), again = tensor_random(RTP_CPU_F32, n * k);
    double *sizes = malloc((size_t)(n * k) * sizeof *sizes + 1);
    require(sizes != NULL, "memory");
    require(!rtp_cpu_dequantize(device, scheme, RTP_CPU_F32, numbers.data, &w.parts, NULL, n, n, k, k), "dequantize");
    require(!rtp_cpu_rows16_pack(device, scheme, packed, &w.parts, n, k), "pack");
    require(!rtp_cpu_rows16_unpack(device, scheme, RTP_CPU_F32, again.data, packed, NULL, n, n, k, k), "unpack");
    require(!memcmp(numbers.data, again.data, (size_t)(n * k) * 4), "both layouts mean the same");
    if (!f.is_super) blocks_mean_the_same(device, scheme, &w.parts, packed, numbers.data, n, k);
    tensor_read(&numbers);
    for (int64_t i = 0; i < n * k; i++) {
        double y = element(f, &w.parts, i, &sizes[i]);
        expect("dequantize", &numbers, i, y, sizes[i]);
    }
    product(device, scheme, dtype, packed, numbers.values, sizes, m, n, k);
    if (n % (2 * ROWS) == 0) gated(device, scheme, packed, m, n, k);
    if (n) rows(device, scheme, dtype, &w, packed, numbers.values, n, k);
    quantize(device, scheme, &numbers, &w, n, k);
    weight_free(&w);
    free(base), free(sizes);
    tensor_free(&numbers), tensor_free(&again);
}

static void refusals(rtp_cpu_device *device) {
    uint8_t byte = 0;
    uint16_t half = 0;
    const rtp_cpu_plain none = {0}, whole = {&byte, &byte, &byte, &half, &half};
    for (int scheme = -1; scheme <= FORMS; scheme++) {
        int is_scheme = scheme >= 0 && scheme < FORMS, unit = is_scheme && forms[scheme].is_super ? SUPER : GROUP;
        const rtp_cpu_plain *wrong = is_scheme && forms[scheme].is_super && forms[scheme].is_asymmetric ? &none : &whole;
        require(!rtp_cpu_rows16_bytes(scheme, 1, unit / 2), "bytes of half a unit");
        require(rtp_cpu_gemm_rows16(device, scheme, 0, NULL, NULL, NULL, 0, NULL, 1, 1, unit / 2, 1, 1) ==
                    RTP_CPU_BAD_ARGUMENT,
                "a product of half a unit");
        require(rtp_cpu_gated_gemm_rows16(device, scheme, RTP_CPU_SILU, 0, NULL, NULL, NULL, 0, NULL, 1, 8, unit, 8, unit) ==
                    RTP_CPU_BAD_ARGUMENT,
                "gate and up that share a group of rows");
        require(rtp_cpu_gated_gemm_rows16(device, scheme, RTP_CPU_TANH + 1, 0, NULL, NULL, NULL, 0, NULL, 1, 16, unit, 16,
                                          unit) == RTP_CPU_BAD_ARGUMENT,
                "no such activation");
        require(rtp_cpu_rows16_pack(device, scheme, NULL, wrong, 1, unit) == RTP_CPU_BAD_ARGUMENT, "other parts");
        require(rtp_cpu_quantize(device, scheme, 0, wrong, NULL, 1, unit, unit) == RTP_CPU_BAD_ARGUMENT, "other parts");
        if (!is_scheme) continue;
        form f = forms[scheme];
        rtp_cpu_plain blocks = {&byte, &byte, f.is_asymmetric ? &byte : NULL, f.is_super ? &half : NULL,
                                f.is_super && f.is_asymmetric ? &half : NULL, f.is_super ? 256 : 16};
        require(rtp_cpu_rows16_pack(device, scheme, NULL, &blocks, 1, unit) == RTP_CPU_BAD_ARGUMENT, "such blocks");
        blocks.block_bytes = 256;
        require(rtp_cpu_quantize(device, scheme, 0, &blocks, NULL, 1, unit, unit) == RTP_CPU_BAD_ARGUMENT, "into blocks");
    }
}

void test_quantized(rtp_cpu_device *device) {
    static const int64_t few[][3] = {{0, 3, 1}, {1, 0, 1},  {2, 5, 0},  {1, 1, 1},  {1, 37, 3},
                                     {5, 7, 2}, {13, 16, 1}, {97, 5, 2}, {30, 5, 0}}; /* m, n, units of k */
    static const int64_t more[][3] = {{2, 16, 2}, {3, 33, 1}, {4, 17, 2}, {6, 8, 2},
                                      {7, 31, 1}, {8, 15, 2}, {12, 18, 1}, {31, 33, 2}};
    for (int scheme = 0; scheme < FORMS; scheme++) {
        int64_t unit = forms[scheme].is_super ? SUPER : GROUP;
        for (int dtype = RTP_CPU_F32; dtype <= (is_brief ? RTP_CPU_F32 : RTP_CPU_BF16); dtype++)
            for (unsigned i = 0; i < sizeof few / sizeof *few; i++)
                quantized(device, scheme, dtype, few[i][0], few[i][1], few[i][2] * unit);
        for (unsigned i = 0; !is_brief && i < sizeof more / sizeof *more; i++)
            quantized(device, scheme, (int)i % 3, more[i][0], more[i][1], more[i][2] * unit);
        quantized(device, scheme, RTP_CPU_F32, 9, 32, unit);
        quantized(device, scheme, RTP_CPU_F32, 29, 32, 4 * SUPER); /* more groups than a panel has */
    }
    refusals(device);
}
