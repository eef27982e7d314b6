/* A tape: calls of kernels one after the other, each with a copy of its arguments. */

#ifndef RTP_CPU_TAPE_H
#define RTP_CPU_TAPE_H

#include "internal.h"

/* Makes a kept call again. */
typedef int (*rtp_replay)(rtp_cpu_device *device, const void *arguments);

rtp_cpu_tape *rtp_tape_create(void);

/* Keep a call, and what it reads. A tape without memory for it is spoilt. `kernel` is a literal. */
void rtp_tape_keep(rtp_cpu_tape *tape, const char *kernel, rtp_replay replay, const void *arguments, size_t bytes,
                   rtp_stream read);

/* What has been kept is no longer all that was done. */
void rtp_tape_spoil(rtp_cpu_tape *tape);
int rtp_tape_is_spoilt(const rtp_cpu_tape *tape);

/* Make all calls, until one fails. Returns its rtp_cpu_status. */
int rtp_tape_run(rtp_cpu_tape *tape, rtp_cpu_device *device);

#endif
