"""Which instruction set the kernels use: the best one of this machine, or the one that RTP_CPU_ISA names."""

from __future__ import annotations

import os

from rtp_core.plugin import ConfigError
from rtp_cpu._native import lib

ISAS: dict[str, int] = {  # from the plainest to the best
    "portable": lib.RTP_CPU_PORTABLE,
    "dotprod": lib.RTP_CPU_DOTPROD,
    "avx2": lib.RTP_CPU_AVX2,
    "avxvnni": lib.RTP_CPU_AVXVNNI,
    "avx512": lib.RTP_CPU_AVX512,
    "avx512bf16": lib.RTP_CPU_AVX512BF16,
}
VARIABLE = "RTP_CPU_ISA"


def available_isas() -> tuple[str, ...]:
    """Those that this build holds and that processor and system support."""
    return tuple(name for name, code in ISAS.items() if lib.rtp_cpu_isa_available(code))


def chosen_isa() -> str:
    """Raises ConfigError where RTP_CPU_ISA names one that is unknown or not available."""
    available = available_isas()
    wanted = os.environ.get(VARIABLE) or available[-1]
    if wanted in available:
        return wanted
    raise ConfigError(
        f"{VARIABLE} is {wanted!r}",
        why="this machine does not support it" if wanted in ISAS else "there is no such instruction set",
        hint=f"expected one of {', '.join(available)}",
    )
