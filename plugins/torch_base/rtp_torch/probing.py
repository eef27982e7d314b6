"""What probes of GPUs have in common: reasons, each with what to do about it."""

from __future__ import annotations

import os
from collections.abc import Sequence

from rtp_core.plugin import DeviceInfo
from rtp_torch.build import TorchBuild

LEAST_FREE_BYTES = 64 << 20  # below this nothing can be opened: torch's own context takes more


def build_problem(build: TorchBuild | None, version: str | None, platform: str, command: str) -> str:
    """Why that torch cannot drive a GPU of `platform`, whose `version` it was built for; or nothing."""
    if build is None:
        return f"torch is not installed; {command}"
    if not version:
        return f"{build}, cannot use a GPU of {platform}; {command}"
    return "" if build.has_triton else f"triton, which compiles the kernels, is not installed beside {build}; {command}"


def memory_problem(devices: Sequence[DeviceInfo], command: str) -> str:
    """Why none of them can be opened; or nothing. `command` shows who holds the memory."""
    if any(device.memory_free_bytes >= LEAST_FREE_BYTES for device in devices):
        return ""
    free = ", ".join(f"{d.id} has {d.memory_free_bytes >> 20} of {d.memory_total_bytes >> 20} MiB" for d in devices)
    return f"no memory is free: {free}; {command} shows who holds it"


def told(build: TorchBuild | None) -> str:
    return str(build) if build else "not installed"


def environment(names: Sequence[str]) -> dict[str, str]:
    """Of these variables, those that are set."""
    return {name: os.environ[name] for name in names if name in os.environ}
