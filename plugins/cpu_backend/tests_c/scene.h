/* A small decode step: kernels one after the other, each with what the one before has left. */

#ifndef SCENE_H
#define SCENE_H

#include "driver.h"

enum { SCENE_POSITIONS = 40, SCENE_VOCABULARY = 97 };

typedef struct {
    tensor table, norm, cos, sin, cache, x, normed, qkv, attended, logits, top;
    char *base;
    uint8_t *weight;
    int32_t *ids, *positions, *slots, *block_tables, *lengths, *best;
    rtp_cpu_kv kv;
} scene;

scene *scene_create(rtp_cpu_device *device);
void scene_destroy(scene *s);

/* Other tokens at other positions, with other contexts. */
void scene_change(scene *s);

/* All calls, until one fails. Results: logits and best. */
int scene_run(scene *s, rtp_cpu_device *device);

/* Forget the results, so that one can tell whether they come again. */
void scene_forget(scene *s);

/* Whether the results are those of `other`. */
int scene_equals(const scene *s, const scene *other);

/* A scene with the same inputs. */
scene *scene_copy(const scene *s, rtp_cpu_device *device);

#endif
