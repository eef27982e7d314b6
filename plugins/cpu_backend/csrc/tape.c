#include "tape.h"

#include <stdlib.h>
#include <string.h>

enum { LINE = 64, FIRST_BYTES = 1 << 14 };

typedef struct {
    const char *kernel;
    rtp_replay replay;
    rtp_stream read;
    int64_t bytes; /* of this head and its arguments, in whole lines */
} head;

struct rtp_cpu_tape {
    char *calls;
    int64_t used, size;
    int is_spoilt;
    const char *failed;
};

rtp_cpu_tape *rtp_tape_create(void) { return calloc(1, sizeof(rtp_cpu_tape)); }

void rtp_cpu_tape_destroy(rtp_cpu_tape *tape) {
    if (!tape) return;
    free(tape->calls);
    free(tape);
}

void rtp_tape_spoil(rtp_cpu_tape *tape) { tape->is_spoilt = 1; }
int rtp_tape_is_spoilt(const rtp_cpu_tape *tape) { return tape->is_spoilt; }

static int grow(rtp_cpu_tape *tape, int64_t bytes) {
    int64_t size = tape->size ? tape->size : FIRST_BYTES;
    while (size < bytes) size *= 2;
    char *calls = aligned_alloc(LINE, (size_t)size);
    if (!calls) return 0;
    if (tape->used) memcpy(calls, tape->calls, (size_t)tape->used);
    free(tape->calls);
    tape->calls = calls, tape->size = size;
    return 1;
}

void rtp_tape_keep(rtp_cpu_tape *tape, const char *kernel, rtp_replay replay, const void *arguments, size_t bytes,
                   rtp_stream read) {
    int64_t whole = ((int64_t)(sizeof(head) + bytes) + LINE - 1) / LINE * LINE;
    if (tape->is_spoilt || (tape->used + whole > tape->size && !grow(tape, tape->used + whole))) {
        rtp_tape_spoil(tape);
        return;
    }
    head *h = (head *)(tape->calls + tape->used);
    *h = (head){kernel, replay, read, whole};
    memcpy(h + 1, arguments, bytes);
    tape->used += whole;
}

/* What the first call from `at` on reads that reads a stream. */
static rtp_stream next_read(const rtp_cpu_tape *tape, int64_t at) {
    while (at < tape->used) {
        const head *h = (const head *)(tape->calls + at);
        if (h->read.first) return h->read;
        at += h->bytes;
    }
    return (rtp_stream){0};
}

int rtp_tape_run(rtp_cpu_tape *tape, rtp_cpu_device *device) {
    tape->failed = NULL;
    rtp_pool_expect(device->pool, next_read(tape, 0));
    for (int64_t at = 0; at < tape->used;) {
        const head *h = (const head *)(tape->calls + at);
        if (h->read.first) rtp_pool_expect(device->pool, next_read(tape, at + h->bytes));
        int status = h->replay(device, h + 1);
        if (status != RTP_CPU_OK) {
            tape->failed = h->kernel;
            return status;
        }
        at += h->bytes;
    }
    return RTP_CPU_OK;
}

int64_t rtp_cpu_tape_bytes(const rtp_cpu_tape *tape) { return (int64_t)sizeof *tape + tape->size; }

const char *rtp_cpu_tape_failed(const rtp_cpu_tape *tape) { return tape->failed; }
