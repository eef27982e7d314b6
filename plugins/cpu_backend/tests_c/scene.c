#include "scene.h"

enum { TOKENS = 7, WIDTH = 64, HEADS = 2, DIM = 16, HALF = 6, BLOCK = 8, WIDEST = 5 /* blocks of a request */ };
enum { QKV = (HEADS + 2) * DIM, BLOCKS = TOKENS * WIDEST, CACHE = BLOCKS * 2 * BLOCK * DIM, LINES = HEADS * DIM };

scene *scene_create(rtp_cpu_device *device) {
    scene *s = calloc(1, sizeof *s);
    require(s != NULL, "memory");
    s->table = tensor_random(RTP_CPU_BF16, SCENE_VOCABULARY * WIDTH);
    s->norm = tensor_random(RTP_CPU_F32, WIDTH);
    s->cos = tensor_random(RTP_CPU_F32, SCENE_POSITIONS * HALF), s->sin = tensor_random(RTP_CPU_F32, s->cos.count);
    s->cache = tensor_random(RTP_CPU_F16, CACHE);
    s->x = tensor_random(RTP_CPU_F32, TOKENS * WIDTH), s->normed = tensor_random(RTP_CPU_F32, TOKENS * WIDTH);
    s->qkv = tensor_random(RTP_CPU_F32, TOKENS * QKV), s->attended = tensor_random(RTP_CPU_F32, TOKENS * LINES);
    s->logits = tensor_random(RTP_CPU_F32, TOKENS * SCENE_VOCABULARY), s->top = tensor_random(RTP_CPU_F32, TOKENS);
    s->kv = (rtp_cpu_kv){s->cache.data, RTP_CPU_F16, BLOCKS, 1, BLOCK, DIM, 2 * BLOCK * DIM, BLOCK * DIM, BLOCK * DIM,
                         DIM};
    s->ids = int32s(TOKENS), s->positions = int32s(TOKENS), s->slots = int32s(TOKENS), s->lengths = int32s(TOKENS);
    s->block_tables = int32s(BLOCKS), s->best = int32s(TOKENS);
    char *bases[2];
    rtp_cpu_plain plain = {.payload = bytes_at_odd_place(QKV * WIDTH, &bases[0])};
    uint16_t *scales = plain.scales = bytes_at_odd_place(QKV * WIDTH / 32 * 2, &bases[1]);
    for (int i = 0; i < QKV * WIDTH / 32; i++) scales[i] &= 0x93ff; /* small */
    s->weight = bytes_at_odd_place(rtp_cpu_rows16_bytes(RTP_CPU_Q8_0, QKV, WIDTH), &s->base);
    require(!rtp_cpu_rows16_pack(device, RTP_CPU_Q8_0, s->weight, &plain, QKV, WIDTH), "pack");
    free(bases[0]), free(bases[1]);
    scene_change(s);
    return s;
}

void scene_destroy(scene *s) {
    tensor *tensors[] = {&s->table, &s->norm, &s->cos,      &s->sin,    &s->cache, &s->x,
                         &s->normed, &s->qkv, &s->attended, &s->logits, &s->top};
    for (unsigned i = 0; i < sizeof tensors / sizeof *tensors; i++) tensor_free(tensors[i]);
    free(s->base), free(s->ids), free(s->positions), free(s->slots), free(s->block_tables), free(s->lengths);
    free(s->best), free(s);
}

void scene_change(scene *s) {
    int shift = (int)random_below(BLOCKS);
    for (int i = 0; i < BLOCKS; i++) s->block_tables[i] = (i + shift) % BLOCKS;
    for (int t = 0; t < TOKENS; t++) {
        s->ids[t] = (int32_t)random_below(SCENE_VOCABULARY);
        s->positions[t] = (int32_t)random_below(SCENE_POSITIONS);
        s->lengths[t] = s->positions[t] + 1;
        s->slots[t] = s->block_tables[t * WIDEST + s->positions[t] / BLOCK] * BLOCK + s->positions[t] % BLOCK;
    }
}

int scene_run(scene *s, rtp_cpu_device *device) {
    const int f32 = RTP_CPU_F32;
    float *q = s->qkv.data, *k = q + HEADS * DIM, *v = k + DIM;
    int status = rtp_cpu_gather_rows(device, f32, s->x.data, RTP_CPU_BF16, s->table.data, s->ids, TOKENS,
                                     SCENE_VOCABULARY, WIDTH, WIDTH, WIDTH);
    if (!status)
        status = rtp_cpu_norm(device, RTP_CPU_RMS_NORM, f32, s->normed.data, NULL, s->x.data, NULL, f32, s->norm.data,
                              NULL, 1e-5f, TOKENS, WIDTH, WIDTH, 0, WIDTH, 0);
    if (!status)
        status = rtp_cpu_gemm_rows16(device, RTP_CPU_Q8_0, f32, q, s->normed.data, s->weight, 0, NULL, TOKENS, QKV,
                                     WIDTH, QKV, WIDTH);
    if (!status)
        status = rtp_cpu_rope(device, f32, q, q, s->cos.data, s->sin.data, s->positions, TOKENS, HEADS + 1, DIM, HALF,
                              SCENE_POSITIONS, QKV, DIM, QKV, DIM);
    if (!status) status = rtp_cpu_kv_write(device, &s->kv, f32, k, v, s->slots, TOKENS, QKV, DIM, QKV, DIM);
    if (!status)
        status = rtp_cpu_decode_attention(device, &s->kv, f32, s->attended.data, q, s->block_tables, WIDEST, s->lengths,
                                          TOKENS, HEADS, LINES, DIM, QKV, DIM, 0.25f);
    if (!status)
        status = rtp_cpu_gemm(device, f32, s->logits.data, s->attended.data, RTP_CPU_BF16, s->table.data, 0, NULL, 1,
                              TOKENS, SCENE_VOCABULARY, LINES, SCENE_VOCABULARY, LINES, WIDTH, 1, NULL);
    if (!status)
        status = greedy(device, s->top.data, s->best, s->logits.data, TOKENS, SCENE_VOCABULARY, SCENE_VOCABULARY);
    return status;
}

void scene_forget(scene *s) {
    memset(s->logits.data, 0, (size_t)s->logits.count * 4);
    memset(s->best, -1, TOKENS * sizeof *s->best);
}

int scene_equals(const scene *s, const scene *other) {
    return !memcmp(s->logits.data, other->logits.data, (size_t)s->logits.count * 4) &&
           !memcmp(s->best, other->best, TOKENS * sizeof *s->best);
}

scene *scene_copy(const scene *s, rtp_cpu_device *device) {
    scene *c = scene_create(device);
    memcpy(c->table.data, s->table.data, (size_t)s->table.count * 2);
    memcpy(c->norm.data, s->norm.data, (size_t)s->norm.count * 4);
    memcpy(c->cos.data, s->cos.data, (size_t)s->cos.count * 4);
    memcpy(c->sin.data, s->sin.data, (size_t)s->sin.count * 4);
    memcpy(c->cache.data, s->cache.data, (size_t)s->cache.count * 2);
    memcpy(c->weight, s->weight, (size_t)rtp_cpu_rows16_bytes(RTP_CPU_Q8_0, QKV, WIDTH));
    memcpy(c->ids, s->ids, TOKENS * sizeof *s->ids), memcpy(c->positions, s->positions, TOKENS * sizeof *s->ids);
    memcpy(c->slots, s->slots, TOKENS * sizeof *s->ids), memcpy(c->lengths, s->lengths, TOKENS * sizeof *s->ids);
    memcpy(c->block_tables, s->block_tables, BLOCKS * sizeof *s->ids);
    return c;
}
