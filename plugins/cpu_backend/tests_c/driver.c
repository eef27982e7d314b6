/* Runs every kernel on every instruction set of this machine, with one thread and with three, on sizes 0, 1, odd.
   `driver brief` leaves most sizes out, as it always does with the portable kernels. */

#include "driver.h"

int is_brief;

static uint64_t state = 1;

static uint32_t random_bits(void) { /* a linear congruential generator: the same numbers on every machine */
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(state >> 33);
}
float random_float(void) { return (float)random_bits() / 1073741824.0f - 1.0f; }
int64_t random_below(int64_t limit) { return random_bits() % limit; }

uint16_t bf16_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
float value_of(int dtype, const void *p, int64_t i) {
    uint16_t h;
    float x;
    if (dtype == RTP_CPU_F32) {
        memcpy(&x, (const char *)p + 4 * i, 4);
        return x;
    }
    memcpy(&h, (const char *)p + 2 * i, 2);
    if (dtype == RTP_CPU_BF16) {
        uint32_t bits = (uint32_t)h << 16;
        memcpy(&x, &bits, 4);
        return x;
    }
    int exponent = h >> 10 & 31, fraction = h & 1023;
    x = exponent ? ldexpf(1 + fraction / 1024.0f, exponent - 15) : ldexpf((float)fraction, -24);
    return h & 0x8000 ? -x : x;
}

tensor tensor_random(int dtype, int64_t count) {
    int64_t size = dtype == RTP_CPU_F32 ? 4 : 2;
    tensor t = {malloc((size_t)((count + 1) * size)), NULL, malloc((size_t)count * 4 + 1), dtype, count};
    require(t.base && t.values, "memory");
    t.data = t.base + size;
    for (int64_t i = 0; i < count; i++) {
        float x = random_float();
        if (dtype == RTP_CPU_F32) {
            memcpy((char *)t.data + 4 * i, &x, 4);
            continue;
        }
        uint16_t h = dtype == RTP_CPU_BF16 ? bf16_of(x) : (uint16_t)(random_bits() & 0xbbff); /* f16: any below 1 */
        memcpy((char *)t.data + 2 * i, &h, 2);
    }
    tensor_read(&t);
    return t;
}
void tensor_read(tensor *t) {
    for (int64_t i = 0; i < t->count; i++) t->values[i] = value_of(t->dtype, t->data, i);
}
void tensor_free(tensor *t) {
    free(t->base);
    free(t->values);
}
void *bytes_at_odd_place(int64_t count, char **base) {
    *base = malloc((size_t)count + 2);
    require(*base != NULL, "memory");
    for (int64_t i = 0; i < count + 2; i++) (*base)[i] = (char)random_bits();
    return *base + 2;
}
int32_t *int32s(int64_t count) {
    int32_t *p = calloc((size_t)count + (count == 0), 4);
    require(p != NULL, "memory");
    return p;
}

int greedy(rtp_cpu_device *device, float *values, int32_t *indices, const float *x, int64_t rows, int64_t cols,
           int64_t x_row) {
    static const float zeros[MAX_GREEDY], ones[MAX_GREEDY];
    static const int64_t all[MAX_GREEDY];
    static const double uniforms[MAX_GREEDY];
    require(rows <= MAX_GREEDY, "few enough rows");
    return rtp_cpu_sample(device, values, indices, x, zeros, all, ones, zeros, uniforms, rows, cols, x_row);
}

void *give_space(void *space, int64_t bytes) {
    work_space *s = space;
    free(s->block);
    s->times++;
    s->block = s->is_exhausted ? NULL : aligned_alloc(64, (size_t)bytes);
    s->bytes = s->block ? bytes : 0;
    return s->block;
}

void require(int condition, const char *what) {
    if (condition) return;
    fprintf(stderr, "failed: %s\n", what);
    exit(1);
}
void expect(const char *what, const tensor *t, int64_t i, double expected, double scale) {
    double tolerance = t->dtype == RTP_CPU_F32 ? 4e-6 : t->dtype == RTP_CPU_F16 ? 1e-3 : 8e-3, got = t->values[i];
    double least = t->dtype == RTP_CPU_F16 ? 0x1p-25 : 0; /* half a step between its smallest numbers */
    if (fabs(got - expected) <= tolerance * (fabs(expected) + scale) + least || (isnan(got) && isnan(expected))) return;
    fprintf(stderr, "failed: %s, element %ld of dtype %d: expected %.9g, got %.9g\n", what, (long)i, t->dtype, expected,
            got);
    exit(1);
}

int main(int argc, char **argv) {
    static const char *const names[] = {"portable", "avx2", "avx512", "avxvnni", "dotprod", "avx512bf16"};
    const int count = sizeof names / sizeof *names, wants_brief = argc > 1 && !strcmp(argv[1], "brief");
    require(!rtp_cpu_isa_available(-1) && !rtp_cpu_isa_available(count), "unknown instruction sets are not available");
    require(rtp_cpu_isa_available(RTP_CPU_PORTABLE), "the portable one is everywhere");
    work_space space = {0};
    require(!rtp_cpu_device_create(RTP_CPU_PORTABLE, 0, 0, give_space, &space), "no threads, no device");
    require(!rtp_cpu_device_create(RTP_CPU_PORTABLE, 1, 0, NULL, NULL), "no work space, no device");
    rtp_cpu_device_destroy(NULL);
    for (int isa = 0; isa < count; isa++) {
        if (!rtp_cpu_isa_available(isa)) continue;
        is_brief = wants_brief || isa == RTP_CPU_PORTABLE;
        const int is_bf16 = isa == RTP_CPU_AVX512BF16; /* whose other kernels are those of AVX-512 */
        for (int threads = 1; threads <= 3; threads += 2) {
            rtp_cpu_device *device = rtp_cpu_device_create(isa, threads, 0, give_space, &space);
            require(device != NULL, "create");
            test_pairs(device, is_bf16);
            if (!is_bf16) {
                test_elements(device);
                test_matmul(device);
                test_quantized(device);
                test_attention(device);
                test_encoder(device);
                test_tape(device);
            }
            rtp_cpu_device_destroy(device);
        }
        test_device(isa);
        if (!is_bf16) test_pool(isa);
        printf("%s ok\n", names[isa]);
        fflush(stdout);
    }
    free(space.block);
    return 0;
}
