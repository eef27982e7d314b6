/* The kernels of one instruction set, as a table. Compiled once per ISA like all that it lists. */

#include "internal.h"

#define RTP_DECLARE(name) __typeof__(rtp_cpu_##name) KERNEL(name);
RTP_KERNELS(RTP_DECLARE)

const struct rtp_cpu_kernels *KERNEL(kernels)(void) {
#define RTP_ENTRY(name) .name = KERNEL(name),
    static const struct rtp_cpu_kernels kernels = {RTP_KERNELS(RTP_ENTRY)};
    return &kernels;
}
