/* Threads: more than cores, workers that sleep in between, callers that take turns, devices side by side. */

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "internal.h"
#include "scene.h"

enum { MANY = 9, ROUNDS = 20, CALLERS = 3 };

typedef struct {
    rtp_cpu_device *device;
    scene *scene;
    const scene *expected;
    rtp_cpu_tape *tape;
    pthread_t thread;
} caller;

static void sleep_ns(long ns) { nanosleep(&(struct timespec){.tv_nsec = ns}, NULL); }

/* Now called, now replayed; in between workers sometimes fall asleep. */
static void *call(void *argument) {
    caller *c = argument;
    for (int round = 0; round < ROUNDS; round++) {
        scene_forget(c->scene);
        int status = round % 2 ? rtp_cpu_replay(c->device, c->tape) : scene_run(c->scene, c->device);
        require(!status && scene_equals(c->scene, c->expected), "a result of many threads");
        if (round % 4 == 0) sleep_ns(300000);
    }
    return NULL;
}

/* Callers of one device, or each of its own. */
static void callers(int isa, int has_own_device) {
    work_space spaces[CALLERS + 1] = {0};
    rtp_cpu_device *alone = rtp_cpu_device_create(isa, 1, 0, give_space, &spaces[CALLERS]), *shared = NULL;
    scene *expected = scene_create(alone);
    require(!scene_run(expected, alone), "a step");
    caller all[CALLERS];
    for (int i = 0; i < CALLERS; i++) {
        if (has_own_device || i == 0) shared = rtp_cpu_device_create(isa, MANY, 0, give_space, &spaces[i]);
        require(shared != NULL, "create");
        all[i] = (caller){.device = shared, .scene = scene_copy(expected, shared), .expected = expected};
        require(!rtp_cpu_record(shared) && !scene_run(all[i].scene, shared), "record");
        all[i].tape = rtp_cpu_recorded(shared);
        require(all[i].tape != NULL, "a tape");
    }
    for (int i = 0; i < CALLERS; i++) require(!pthread_create(&all[i].thread, NULL, call, &all[i]), "a thread");
    for (int i = 0; i < CALLERS; i++) pthread_join(all[i].thread, NULL);
    for (int i = 0; i < CALLERS; i++) {
        scene_destroy(all[i].scene);
        rtp_cpu_tape_destroy(all[i].tape);
        if (has_own_device || i == 0) rtp_cpu_device_destroy(all[i].device);
        free(spaces[i].block);
    }
    scene_destroy(expected);
    rtp_cpu_device_destroy(alone);
    free(spaces[CALLERS].block);
}

/* Devices that end early: at once, asleep, while recording. */
static void ends(int isa) {
    for (int way = 0; way < 3; way++) {
        work_space space = {0};
        rtp_cpu_device *device = rtp_cpu_device_create(isa, MANY, 0, give_space, &space);
        require(device != NULL, "create");
        if (way == 1) sleep_ns(1000000);
        if (way == 2) {
            scene *s = scene_create(device);
            require(!rtp_cpu_record(device) && !scene_run(s, device), "record");
            scene_destroy(s);
        }
        rtp_cpu_device_destroy(device);
        free(space.block);
    }
}

static void count_items(void *job, int64_t begin, int64_t end, void *scratch) {
    (void)scratch;
    atomic_fetch_add((atomic_llong *)job, end - begin);
}

/* What was read is known until the next turn, and what is to be read may be anywhere: fetching it is in vain, then. */
static void streams(void) {
    enum { COUNT = 100, GRAIN = 3, ITEM = 10 };
    work_space space = {0};
    rtp_pool *pool = rtp_pool_create(MANY, 0, give_space, &space);
    require(pool != NULL, "create");
    const void *nowhere = (const void *)64;
    atomic_llong items = 0;
    rtp_pool_lock(pool);
    rtp_pool_expect(pool, (rtp_stream){nowhere, 1 << 20, 1 << 12});
    for (int round = 0; round < ROUNDS; round++) {
        rtp_pool_run_over(pool, count_items, &items, COUNT, GRAIN, &space, ITEM);
        if (round % 4 == 0) sleep_ns(50000);
    }
    const rtp_stream read = rtp_pool_read(pool);
    rtp_pool_unlock(pool);
    require(atomic_load(&items) == ROUNDS * COUNT, "every item once");
    require(read.first == &space && read.bytes == COUNT * ITEM && read.piece_bytes == GRAIN * ITEM, "what was read");
    rtp_pool_lock(pool);
    require(!rtp_pool_read(pool).first, "nothing in this turn");
    rtp_pool_unlock(pool);
    rtp_pool_destroy(pool);
    free(space.block);
}

void test_pool(int isa) {
    streams();
    callers(isa, 0);
    callers(isa, 1);
    ends(isa);
}
