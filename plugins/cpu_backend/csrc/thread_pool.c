/* A pool of N - 1 workers and the caller. Idle workers spin for a short while, then sleep.

   A job is open to whoever comes: the caller never waits for a worker that has not started on it, so a
   sleeping worker costs nothing but its share, and in a forked child, where no worker exists, the caller
   does all the work. Pieces are taken from one atomic counter, so a thread that is held up slows only itself.

   Few rows of activations wait for memory, and between two products the memory would wait for them: who has nothing to do
   meanwhile fetches what comes next into its own cache. */

#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
enum { GUARD = 64 }; /* bytes after each part of the scratch that nobody may touch */
#else
#define ASAN_POISON_MEMORY_REGION(address, bytes) ((void)(address), (void)(bytes))
enum { GUARD = 0 };
#endif

#define SPIN_NS 100000 /* longer than what lies between two ops of one step */
#define PIECES_PER_THREAD 4
#define CLOSED (1u << 30)

enum { LINE = 64, FETCHED_AT_ONCE = 2 * LINE, MOST_FETCHED = 1 << 16 /* bytes: a part of a thread's second cache */ };

typedef struct {
    rtp_pool *pool;
    int index;
    pthread_t thread;
} worker;

struct rtp_pool {
    /* The job. Written by the caller while the gate is closed and nobody is inside. */
    rtp_task task;
    void *job;
    int64_t count, grain;
    _Alignas(64) atomic_llong next;
    _Alignas(64) atomic_uint gate; /* threads that came in, plus CLOSED */
    _Alignas(64) atomic_uint left; /* threads that went out again */
    _Alignas(64) atomic_uint epoch; /* counts jobs; what idle workers watch */
    atomic_uintptr_t ahead; /* an rtp_stream to fetch; parts of two of them would fetch in vain, and no more */
    atomic_llong ahead_bytes, ahead_piece_bytes;
    atomic_int asleep;
    atomic_int stopping;

    pthread_mutex_t turn;
    pthread_mutex_t sleep_mutex;
    pthread_cond_t wake;
    int threads;
    int started; /* workers that really exist */
    pid_t owner;
    worker *workers;
    rtp_stream read; /* since the pool was locked */
    int rehearses;
    rtp_cpu_scratch give;
    void *context;
    char *scratch; /* the shared part, then one a thread; NULL where both are of 0 bytes */
    int64_t shared_bytes, thread_bytes;
};

static void pause_cpu(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void *scratch_of(const rtp_pool *pool, int index) {
    return pool->scratch ? pool->scratch + pool->shared_bytes + GUARD + index * (pool->thread_bytes + GUARD) : NULL;
}

static void take_pieces(rtp_pool *pool, int index) {
    for (;;) {
        int64_t begin = atomic_fetch_add_explicit(&pool->next, pool->grain, memory_order_relaxed);
        if (begin >= pool->count) return;
        int64_t end = pool->count - begin < pool->grain ? pool->count : begin + pool->grain;
        pool->task(pool->job, begin, end, scratch_of(pool, index));
    }
}

/* How far a thread is with the piece that it fetches. */
typedef struct {
    uintptr_t piece;
    int64_t done;
} fetching;

/* A pause, or the time to fetch some more of the piece that this thread will probably be given next. */
static void pass_time(const rtp_pool *pool, int index, fetching *f) {
    const uintptr_t first = atomic_load_explicit(&pool->ahead, memory_order_relaxed);
    const int64_t piece_bytes = atomic_load_explicit(&pool->ahead_piece_bytes, memory_order_relaxed);
    const int64_t begin = index * piece_bytes;
    const int64_t left = atomic_load_explicit(&pool->ahead_bytes, memory_order_relaxed) - begin;
    const uintptr_t piece = first + (uintptr_t)begin;
    if (piece != f->piece) *f = (fetching){piece, 0};
    if (!first || f->done >= left || f->done >= piece_bytes || f->done >= MOST_FETCHED) {
        pause_cpu();
        return;
    }
    for (int64_t at = 0; at < FETCHED_AT_ONCE; at += LINE)
        __builtin_prefetch((const void *)(piece + (uintptr_t)(f->done + at)), 0, 2);
    f->done += FETCHED_AT_ONCE;
}

/* A new epoch, or a stop, is there once this returns. */
static void await_epoch(rtp_pool *pool, unsigned seen, int index) {
    int64_t deadline = now_ns() + SPIN_NS;
    fetching f = {0};
    do {
        for (int i = 0; i < 64; i++) {
            if (atomic_load_explicit(&pool->epoch, memory_order_acquire) != seen) return;
            pass_time(pool, index, &f);
        }
    } while (now_ns() < deadline);
    pthread_mutex_lock(&pool->sleep_mutex);
    atomic_fetch_add(&pool->asleep, 1); /* before the last look at epoch: the caller looks in the other order */
    while (atomic_load(&pool->epoch) == seen) pthread_cond_wait(&pool->wake, &pool->sleep_mutex);
    atomic_fetch_sub(&pool->asleep, 1);
    pthread_mutex_unlock(&pool->sleep_mutex);
}

static void announce(rtp_pool *pool) {
    atomic_fetch_add(&pool->epoch, 1);
    if (atomic_load(&pool->asleep) &&
        getpid() == pool->owner) { /* a child has nobody to wake, and maybe a stuck mutex */
        pthread_mutex_lock(&pool->sleep_mutex);
        pthread_cond_broadcast(&pool->wake);
        pthread_mutex_unlock(&pool->sleep_mutex);
    }
}

static void *work(void *argument) {
    worker *self = argument;
    rtp_pool *pool = self->pool;
    unsigned seen = 0;
    for (;;) {
        await_epoch(pool, seen, self->index);
        if (atomic_load(&pool->stopping)) return NULL;
        seen = atomic_load_explicit(&pool->epoch, memory_order_acquire);
        /* May let us into the next job instead, or into one that we were in: both are harmless. */
        if (atomic_fetch_add(&pool->gate, 1) & CLOSED) continue;
        take_pieces(pool, self->index);
        atomic_fetch_add(&pool->left, 1);
    }
}

/* Items that are taken at a time. */
static int64_t piece_of(const rtp_pool *pool, int64_t count, int64_t grain) {
    const int64_t piece = count / ((int64_t)pool->threads * PIECES_PER_THREAD);
    return piece > grain ? piece : grain;
}

void rtp_pool_run(rtp_pool *pool, rtp_task task, void *job, int64_t count, int64_t grain) {
    if (count <= 0 || pool->rehearses) return;
    if (grain < 1) grain = 1;
    if (count <= grain || pool->started == 0) {
        task(job, 0, count, scratch_of(pool, 0));
        return;
    }
    pool->task = task;
    pool->job = job;
    pool->count = count;
    pool->grain = piece_of(pool, count, grain);
    atomic_store_explicit(&pool->next, 0, memory_order_relaxed);
    atomic_store_explicit(&pool->left, 0, memory_order_relaxed);
    atomic_store(&pool->gate, 0);
    announce(pool);
    take_pieces(pool, 0);
    unsigned inside = atomic_fetch_or(&pool->gate, CLOSED);
    fetching f = {0};
    for (int i = 0; atomic_load(&pool->left) != inside; i++) {
        if (i < 10000) pass_time(pool, 0, &f);
        else sched_yield();
    }
}

void rtp_pool_run_over(rtp_pool *pool, rtp_task task, void *job, int64_t count, int64_t grain, const void *first,
                       int64_t item_bytes) {
    pool->read = (rtp_stream){first, count * item_bytes, piece_of(pool, count, grain) * item_bytes};
    rtp_pool_run(pool, task, job, count, grain);
}

rtp_stream rtp_pool_read(const rtp_pool *pool) { return pool->read; }

void rtp_pool_expect(rtp_pool *pool, rtp_stream next) {
    atomic_store_explicit(&pool->ahead_bytes, next.bytes, memory_order_relaxed);
    atomic_store_explicit(&pool->ahead_piece_bytes, next.piece_bytes, memory_order_relaxed);
    atomic_store_explicit(&pool->ahead, (uintptr_t)next.first, memory_order_relaxed);
}

static int64_t larger_in_lines(int64_t a, int64_t b) { return ((a > b ? a : b) + 63) / 64 * 64; }

/* One block holds it all, so that the device's memory has one range of it, in place of which a larger one comes. */
static int grow(rtp_pool *pool, int64_t shared_bytes, int64_t thread_bytes) {
    const int64_t most = INT64_MAX / 4;
    if (shared_bytes > most || thread_bytes > most / pool->threads) return RTP_CPU_OUT_OF_MEMORY;
    int64_t shared = larger_in_lines(shared_bytes, pool->shared_bytes);
    int64_t thread = larger_in_lines(thread_bytes, pool->thread_bytes);
    pool->shared_bytes = pool->thread_bytes = 0;
    pool->scratch = pool->give(pool->context, shared + GUARD + pool->threads * (thread + GUARD));
    if (!pool->scratch) return RTP_CPU_OUT_OF_MEMORY;
    pool->shared_bytes = shared, pool->thread_bytes = thread;
    for (int i = 0; i <= pool->threads; i++) ASAN_POISON_MEMORY_REGION((char *)scratch_of(pool, i) - GUARD, GUARD);
    return RTP_CPU_OK;
}

int rtp_pool_reserve(rtp_pool *pool, int64_t shared_bytes, void **shared, int64_t thread_bytes) {
    int has_room = shared_bytes <= pool->shared_bytes && thread_bytes <= pool->thread_bytes;
    int status = has_room ? RTP_CPU_OK : grow(pool, shared_bytes, thread_bytes);
    if (shared) *shared = pool->scratch;
    return status;
}

void rtp_pool_lock(rtp_pool *pool) {
    pthread_mutex_lock(&pool->turn);
    pool->read = (rtp_stream){0};
}
void rtp_pool_unlock(rtp_pool *pool) { pthread_mutex_unlock(&pool->turn); }
int rtp_pool_threads(const rtp_pool *pool) { return pool->threads; }
int rtp_pool_rehearses(const rtp_pool *pool) { return pool->rehearses; }

rtp_pool *rtp_pool_create(int threads, int rehearses, rtp_cpu_scratch scratch, void *context) {
    if (threads < 1 || threads > 4096 || !scratch) return NULL;
    rtp_pool *pool = aligned_alloc(64, (sizeof *pool + 63) / 64 * 64);
    if (!pool) return NULL;
    *pool =
        (rtp_pool){.threads = threads, .rehearses = rehearses, .give = scratch, .context = context, .owner = getpid()};
    atomic_store(&pool->gate, CLOSED);
    pool->workers = calloc((size_t)threads, sizeof *pool->workers);
    pthread_mutex_init(&pool->turn, NULL);
    pthread_mutex_init(&pool->sleep_mutex, NULL);
    pthread_cond_init(&pool->wake, NULL);
    int ok = pool->workers != NULL;
    for (int i = 1; ok && !rehearses && i < threads; i++) {
        pool->workers[i] = (worker){.pool = pool, .index = i};
        ok = pthread_create(&pool->workers[i].thread, NULL, work, &pool->workers[i]) == 0;
        pool->started += ok;
    }
    if (ok) return pool;
    rtp_pool_destroy(pool);
    return NULL;
}

void rtp_pool_destroy(rtp_pool *pool) {
    if (!pool) return;
    if (getpid() == pool->owner) {
        atomic_store(&pool->stopping, 1);
        announce(pool);
        for (int i = 1; i <= pool->started; i++) pthread_join(pool->workers[i].thread, NULL);
        pthread_cond_destroy(&pool->wake);
        pthread_mutex_destroy(&pool->sleep_mutex);
        pthread_mutex_destroy(&pool->turn);
    }
    free(pool->workers);
    free(pool);
}
