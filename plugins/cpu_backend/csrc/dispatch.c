/* The public functions: the device, its recordings, and one entry per kernel, which takes the device's turn, calls the
   kernel of its ISA, and keeps the call where a tape is being recorded. */

#include <stdlib.h>

#include "arguments.h"
#include "packed.h"
#include "pairs16.h"
#include "rows16.h"
#include "tape.h"

int rtp_cpu_isa_available(int isa) { return rtp_kernels_of(isa) != NULL; }

rtp_cpu_device *rtp_cpu_device_create(int isa, int threads, int rehearses, rtp_cpu_scratch scratch, void *context) {
    const struct rtp_cpu_kernels *kernels = rtp_kernels_of(isa);
    rtp_cpu_device *device = kernels ? malloc(sizeof *device) : NULL;
    if (!device) return NULL;
    *device = (rtp_cpu_device){kernels, rtp_pool_create(threads, rehearses, scratch, context), NULL};
    if (device->pool) return device;
    free(device);
    return NULL;
}

void rtp_cpu_device_destroy(rtp_cpu_device *device) {
    if (!device) return;
    rtp_cpu_tape_destroy(device->tape);
    rtp_pool_destroy(device->pool);
    free(device);
}

int64_t rtp_cpu_pairs16_bytes(int64_t n, int64_t k) {
    return n < 0 || k < 0 ? 0 : div_up(n, PAIR_ROWS) * pairs16_group(k) * (int64_t)sizeof(uint16_t);
}

int64_t rtp_cpu_rows16_bytes(int scheme, int64_t n, int64_t k) {
    if (!is_scheme(scheme) || n < 0 || k < 0 || k % rows16_unit(rows16_of(scheme))) return 0;
    return div_up(n, ROWS) * rows16_group_bytes(rows16_of(scheme), k / GROUP);
}

int64_t rtp_cpu_encoder_layer_bytes(const rtp_cpu_encoder_weights *weights, int64_t tokens) {
    const int64_t hidden = weights->o.n, q_width = weights->heads * weights->head_dim, wide = max64(q_width, hidden);
    return tokens * (weights->qkv.n + wide) * 4 + packed_bytes(tokens, weights->up.n, 0) + packed_bytes(tokens, wide, 1);
}

/* ---- capture ---- */

int rtp_cpu_record(rtp_cpu_device *device) {
    rtp_pool_lock(device->pool);
    int status = device->tape ? RTP_CPU_BAD_ARGUMENT : RTP_CPU_OK;
    if (status == RTP_CPU_OK) {
        device->tape = rtp_tape_create();
        if (!device->tape) status = RTP_CPU_OUT_OF_MEMORY;
    }
    rtp_pool_unlock(device->pool);
    return status;
}

void rtp_cpu_spoil_recording(rtp_cpu_device *device) {
    rtp_pool_lock(device->pool);
    if (device->tape) rtp_tape_spoil(device->tape);
    rtp_pool_unlock(device->pool);
}

rtp_cpu_tape *rtp_cpu_recorded(rtp_cpu_device *device) {
    rtp_pool_lock(device->pool);
    rtp_cpu_tape *tape = device->tape;
    device->tape = NULL;
    rtp_pool_unlock(device->pool);
    if (!tape || !rtp_tape_is_spoilt(tape)) return tape;
    rtp_cpu_tape_destroy(tape);
    return NULL;
}

int rtp_cpu_replay(rtp_cpu_device *device, rtp_cpu_tape *tape) {
    rtp_pool_lock(device->pool);
    if (device->tape) rtp_tape_spoil(device->tape); /* a tape keeps calls, not tapes */
    int status = rtp_tape_run(tape, device);
    rtp_pool_unlock(device->pool);
    return status;
}

/* ---- entries ---- */

#define PARAMETER(type, name) , type name
#define PASSED(type, name) , name
#define MEMBER(type, name) type name;
#define KEPT(type, name) .name = name,
#define AGAIN(type, name) , call->name

/* `is_whole`: whether the arguments say all, so that they can be kept; an array that they point to is the caller's. */
#define ENTRY(kernel, is_whole)                                                                       \
    struct kernel##_call {                                                                            \
        ARGUMENTS_##kernel(MEMBER)                                                                    \
    };                                                                                                \
    static int replay_##kernel(rtp_cpu_device *device, const void *arguments) {                       \
        const struct kernel##_call *call = arguments;                                                 \
        return device->kernels->kernel(device ARGUMENTS_##kernel(AGAIN));                             \
    }                                                                                                 \
    int rtp_cpu_##kernel(rtp_cpu_device *device ARGUMENTS_##kernel(PARAMETER)) {                      \
        rtp_pool_lock(device->pool);                                                                  \
        int status = device->kernels->kernel(device ARGUMENTS_##kernel(PASSED));                      \
        if (device->tape && status == RTP_CPU_OK) {                                                   \
            struct kernel##_call call = {ARGUMENTS_##kernel(KEPT)};                                   \
            if (is_whole)                                                                             \
                rtp_tape_keep(device->tape, #kernel, replay_##kernel, &call, sizeof call,             \
                              rtp_pool_read(device->pool));                                           \
            else rtp_tape_spoil(device->tape);                                                        \
        }                                                                                             \
        rtp_pool_unlock(device->pool);                                                                \
        return status;                                                                                \
    }

ENTRY(binary, 1)
ENTRY(activation, 1)
ENTRY(gated_activation, 1)
ENTRY(cast, 1)
ENTRY(norm, 1)
ENTRY(softmax, 1)
ENTRY(rope, 1)
ENTRY(gather_rows, 1)
ENTRY(top_k, 1)
ENTRY(sample, 1)
ENTRY(copy, 0)
ENTRY(gemm, offsets == NULL)
ENTRY(pairs16_pack, 0)
ENTRY(pairs16_unpack, 1)
ENTRY(gemm_pairs16, 1)
ENTRY(rows16_pack, 0)
ENTRY(gemm_rows16, 1)
ENTRY(gated_gemm_rows16, 1)
ENTRY(rows16_unpack, 1)
ENTRY(quantize, 0)
ENTRY(dequantize, 0)
ENTRY(kv_write, 1)
ENTRY(kv_gather, 1)
ENTRY(decode_attention, 1)
ENTRY(context_attention, 1)
ENTRY(encoder_attention, 0) /* lengths and starts are the caller's */
ENTRY(encoder_layer, 0)
