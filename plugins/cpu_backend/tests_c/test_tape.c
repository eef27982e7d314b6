/* Recorded calls made again: what calling anew gives, where they fail, and what spoils a recording. */

#include "scene.h"

static rtp_cpu_tape *record(rtp_cpu_device *device, scene *s) {
    require(!rtp_cpu_record(device), "record");
    require(!scene_run(s, device), "a step");
    return rtp_cpu_recorded(device);
}

static void replays(rtp_cpu_device *device) {
    scene *s = scene_create(device);
    rtp_cpu_tape *tape = record(device, s);
    require(tape != NULL, "a tape");
    for (int round = 0; round < 3; round++) {
        scene_change(s);
        scene *other = scene_copy(s, device);
        require(!scene_run(other, device), "a step");
        scene_forget(s);
        require(!rtp_cpu_replay(device, tape) && !rtp_cpu_tape_failed(tape), "replay");
        require(scene_equals(s, other), "a replay gives what calling anew gives");
        scene_destroy(other);
    }

    scene *other = scene_copy(s, device);
    s->positions[3] = SCENE_POSITIONS;
    scene_forget(s), scene_forget(other);
    require(rtp_cpu_replay(device, tape) == RTP_CPU_OUT_OF_RANGE, "a position outside its table");
    require(!strcmp(rtp_cpu_tape_failed(tape), "rope"), "the kernel that failed");
    require(scene_equals(s, other), "no call after the one that failed");
    s->positions[3] = other->positions[3];
    require(!rtp_cpu_replay(device, tape) && !rtp_cpu_tape_failed(tape), "a replay after one that failed");
    require(!scene_run(other, device) && scene_equals(s, other), "which gives the same as ever");
    rtp_cpu_tape_destroy(tape);
    scene_destroy(s), scene_destroy(other);
}

static void recordings(rtp_cpu_device *device) {
    scene *s = scene_create(device);
    require(!rtp_cpu_recorded(device), "no tape without a recording");
    require(!rtp_cpu_record(device) && rtp_cpu_record(device) == RTP_CPU_BAD_ARGUMENT, "one recording at a time");
    s->ids[0] = -1;
    require(scene_run(s, device) == RTP_CPU_OUT_OF_RANGE, "a call that fails");
    rtp_cpu_tape *empty = rtp_cpu_recorded(device);
    require(empty && !rtp_cpu_replay(device, empty), "is not recorded");

    s->ids[0] = 0;
    rtp_cpu_tape *tape = record(device, s);
    scene_forget(s);
    require(!rtp_cpu_record(device), "record");
    require(!rtp_cpu_replay(device, tape) && !rtp_cpu_recorded(device), "a replay spoils a recording");
    rtp_cpu_tape_destroy(tape), rtp_cpu_tape_destroy(empty), rtp_cpu_tape_destroy(NULL);

    const int64_t one[] = {1}, offsets[] = {0, 0, 0};
    const float *logits = s->logits.data;
    for (int way = 0; way < 3; way++) {
        require(!rtp_cpu_record(device) && !scene_run(s, device), "record");
        if (way == 0) require(!rtp_cpu_copy(device, 4, 1, one, s->top.data, one, logits, one), "copy");
        else if (way == 1) rtp_cpu_spoil_recording(device);
        else
            require(!rtp_cpu_gemm(device, RTP_CPU_F32, s->top.data, logits, RTP_CPU_F32, logits, 0, NULL, 1, 1, 1, 1, 1,
                                  1, 1, 1, offsets),
                    "a batch");
        require(!scene_run(s, device) && !rtp_cpu_recorded(device), "a spoilt recording gives no tape");
    }
    scene_destroy(s);
}

static void long_tape(rtp_cpu_device *device) {
    enum { CALLS = 700 };
    tensor x = tensor_random(RTP_CPU_F32, CALLS);
    float *tops = malloc(CALLS * sizeof *tops);
    int32_t *places = int32s(CALLS);
    require(tops != NULL, "memory");
    require(!rtp_cpu_record(device), "record");
    for (int i = 0; i < CALLS; i++)
        require(!greedy(device, tops + i, places + i, (float *)x.data + i, 1, 1, 1), "argmax");
    rtp_cpu_tape *tape = rtp_cpu_recorded(device);
    memset(tops, 0, CALLS * sizeof *tops);
    require(tape && !rtp_cpu_replay(device, tape), "replay");
    require(!memcmp(tops, x.data, CALLS * sizeof *tops), "every call of a long tape");
    require(rtp_cpu_tape_bytes(tape) > CALLS * 64, "the bytes of a long tape");
    rtp_cpu_tape_destroy(tape);
    tensor_free(&x), free(tops), free(places);
}

void test_tape(rtp_cpu_device *device) {
    replays(device);
    recordings(device);
    long_tape(device);
}
