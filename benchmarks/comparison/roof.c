// What this machine can do and keep up: bytes read from memory, float and int8 arithmetic, by number of threads.
// usage: roof THREADS; prints one JSON document. Best of several tries, each long enough for clocks to settle.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

// Sums that do not wait for one another, each a variable of its own: an array would stay in memory.
#define EACH_CHAIN(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
enum { TRIES = 7, CHAINS = 12, STEPS = 40000000, MAX_THREADS = 256 };
static const size_t MEMORY = (size_t)768 << 20;

typedef float floats __attribute__((vector_size(32)));
typedef unsigned long long words __attribute__((vector_size(32)));

static char *memory;
static int num_threads;
static pthread_barrier_t line;
static volatile double sink;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

// Each kernel does one thread's share and returns how many bytes or operations that was.
static double read_memory(int thread) {
  size_t share = MEMORY / (size_t)num_threads / 1024 * 1024;
  const words *p = (const words *)(memory + share * (size_t)thread), *end = p + share / sizeof(words);
  words a = {0}, b = a, c = a, d = a;
  for (; p < end; p += 4) a |= p[0], b |= p[1], c |= p[2], d |= p[3];
  a |= b | c | d;
  sink = (double)(a[0] + a[1] + a[2] + a[3]);
  return (double)share;
}

#if defined(__AVX512F__)
#define LANES 16
typedef __m512 reals;
#define SET(x) _mm512_set1_ps(x)
#define FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define KEEP(x) __asm__ volatile("" : "+v"(x))
#elif defined(__FMA__)
#define LANES 8
typedef __m256 reals;
#define SET(x) _mm256_set1_ps(x)
#define FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define KEEP(x) __asm__ volatile("" : "+x"(x))
#else
#define LANES 8
typedef floats reals;
static reals SET(float x) { return (floats){x, x, x, x, x, x, x, x}; }
#define FMA(a, b, c) ((a) * (b) + (c))
#define KEEP(x) __asm__ volatile("" : "+m"(x))
#endif

static double multiply_floats(int thread) {
  (void)thread;
  reals x = SET(0.5f), y = SET(0.25f), total = SET(0.0f);
#define START(i) reals sum##i = SET(0.0f);
#define ADD(i)               \
  sum##i = FMA(x, y, sum##i); \
  KEEP(sum##i);
#define TOTAL(i) total = FMA(x, sum##i, total);
  EACH_CHAIN(START)
  for (int step = 0; step < STEPS; step++) {
    EACH_CHAIN(ADD)
  }
  EACH_CHAIN(TOTAL)
#undef START
#undef ADD
#undef TOTAL
  float first;
  memcpy(&first, &total, sizeof first);
  sink = first;
  return 2.0 * LANES * CHAINS * STEPS;
}

#if defined(__AVX512VNNI__)
#define INT8 "avx512_vnni"
typedef __m512i bytes;
#define SET8(x) _mm512_set1_epi8(x)
#define DOT(sum, u, s) _mm512_dpbusd_epi32(sum, u, s)
#elif defined(__AVXVNNI__)
#define INT8 "avx_vnni"
typedef __m256i bytes;
#define SET8(x) _mm256_set1_epi8(x)
#define DOT(sum, u, s) _mm256_dpbusd_avx_epi32(sum, u, s)
#elif defined(__AVX2__)
#define INT8 "avx2"
typedef __m256i bytes;
#define SET8(x) _mm256_set1_epi8(x)
#define DOT(sum, u, s) _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(u, s), _mm256_set1_epi16(1)))
#endif

#if defined(INT8)
static double multiply_bytes(int thread) {
  (void)thread;
  bytes u = SET8(3), s = SET8(5), total = SET8(0);
#define START(i) bytes sum##i = SET8(0);
#define ADD(i)                                             \
  KEEP(u); /* or the product would be taken out of the loop */ \
  sum##i = DOT(sum##i, u, s);                              \
  KEEP(sum##i);
#define TOTAL(i) total = DOT(total, sum##i, s);
  EACH_CHAIN(START)
  for (int step = 0; step < STEPS; step++) {
    EACH_CHAIN(ADD)
  }
  EACH_CHAIN(TOTAL)
  int first;
  memcpy(&first, &total, sizeof first);
  sink = first;
  return 2.0 * (double)sizeof(bytes) * CHAINS * STEPS;
}
#else
#define INT8 ""
static double multiply_bytes(int thread) {
  (void)thread;
  return 0.0;
}
#endif

typedef struct {
  double (*kernel)(int);
  int thread;
  double work;
} Job;

static void *run(void *argument) {
  Job *job = argument;
  pthread_barrier_wait(&line);
  job->work = job->kernel(job->thread);
  return NULL;
}

// Work per second of `threads` threads together, in units of 1e9.
static double best(double (*kernel)(int), int threads) {
  double fastest = 0.0;
  num_threads = threads;
  for (int attempt = 0; attempt < TRIES; attempt++) {
    pthread_t handles[MAX_THREADS];
    Job jobs[MAX_THREADS];
    double work = 0.0;
    pthread_barrier_init(&line, NULL, (unsigned)threads + 1);
    for (int i = 0; i < threads; i++) {
      jobs[i] = (Job){kernel, i, 0.0};
      if (pthread_create(&handles[i], NULL, run, &jobs[i])) exit(1);
    }
    pthread_barrier_wait(&line);
    double start = now();
    for (int i = 0; i < threads; i++) pthread_join(handles[i], NULL), work += jobs[i].work;
    double speed = work / (now() - start) / 1e9;
    pthread_barrier_destroy(&line);
    if (speed > fastest) fastest = speed;
  }
  return fastest;
}

int main(int argc, char **argv) {
  int most = argc > 1 ? atoi(argv[1]) : 1;
  if (most < 1 || most > MAX_THREADS) return 2;
  memory = aligned_alloc(4096, MEMORY);
  if (!memory) return 1;
  memset(memory, 1, MEMORY);
  printf("{\"int8_isa\": \"%s\"", INT8);
  for (int threads = 1; threads <= most; threads += most > 1 ? most - 1 : 1) {
    printf(", \"%d\": {\"read_gb_per_s\": %.2f, \"float32_gflop_per_s\": %.1f, \"int8_gop_per_s\": %.1f}", threads,
           best(read_memory, threads), best(multiply_floats, threads), best(multiply_bytes, threads));
  }
  printf("}\n");
  return 0;
}
