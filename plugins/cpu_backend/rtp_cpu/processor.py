"""The processor's name, and how much of it this process may use."""

from __future__ import annotations

import os
import platform


def usable_threads() -> int:
    """Cores this process may run on, which in a container are fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor_name() -> str:
    """The model as the system names it, or the architecture where it does not."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as cpuinfo:
            for line in cpuinfo:
                field, _, value = line.partition(":")
                if field.strip() == "model name":
                    return " ".join(value.split())
    except OSError:  # no such file outside Linux
        return platform.processor() or platform.machine()
    return platform.machine()
