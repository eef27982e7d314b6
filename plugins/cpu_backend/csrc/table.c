/* The kernels of one instruction set, as a table. Compiled once per ISA like all that it lists; one that only multiplies
   bf16 in a better way names the ISA that has its other kernels, RTP_OTHERS. */

#include "internal.h"

#ifndef RTP_OTHERS
#define RTP_OTHERS RTP_ISA
#endif
#define OTHER(name) RTP_PASTE(name, RTP_OTHERS)

#define RTP_DECLARE(name) __typeof__(rtp_cpu_##name) KERNEL(name);
#define RTP_DECLARE_OTHER(name) __typeof__(rtp_cpu_##name) OTHER(name);
RTP_BF16_KERNELS(RTP_DECLARE)
RTP_OTHER_KERNELS(RTP_DECLARE_OTHER)

const struct rtp_cpu_kernels *KERNEL(kernels)(void) {
#define RTP_ENTRY(name) .name = KERNEL(name),
#define RTP_ENTRY_OTHER(name) .name = OTHER(name),
    static const struct rtp_cpu_kernels kernels = {RTP_BF16_KERNELS(RTP_ENTRY) RTP_OTHER_KERNELS(RTP_ENTRY_OTHER)};
    return &kernels;
}
