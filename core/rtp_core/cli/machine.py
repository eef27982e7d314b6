"""Facts about this machine and what is installed, for reports that others will read."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

LIBRARIES = ("numpy", "ml_dtypes", "tokenizers", "minijinja", "pydantic", "pluggy", "huggingface_hub", "typer", "rich")


def machine() -> dict[str, Any]:
    """CPU, memory in bytes, operating system, and Python."""
    from rtp_core.device.host_memory import host_memory_info

    total, free = host_memory_info()
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_total_bytes": total,
        "memory_free_bytes": free,
        "os": platform.platform(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def cpu_model() -> str:
    """What the processor calls itself, or its architecture."""
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as cpuinfo:
        for line in cpuinfo:
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def versions(*dists: str) -> dict[str, str | None]:
    """Versions of installed distributions; None for one that is not there."""
    return {dist: _version(dist) for dist in dists}


def _version(dist: str) -> str | None:
    try:
        return version(dist)
    except PackageNotFoundError:
        return None
