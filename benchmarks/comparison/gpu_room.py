"""Whether a model fits onto the disk and the GPU, told before it is written or read."""

from __future__ import annotations

import shutil
from pathlib import Path

GIB = 1 << 30
FOLDER_BYTES = 64 << 20  # beside the weights: tokenizer and configs
DEVICE_FACTOR, DEVICE_BYTES = 1.1, 2 * GIB  # beside the weights: KV cache, activations, libraries, a process's context


def lacking(file_bytes: int, disk_free: int, device_free: int, *, is_written: bool) -> list[str]:
    """What is missing, one sentence each."""
    on_device = round(file_bytes * DEVICE_FACTOR) + DEVICE_BYTES
    found = []
    if not is_written and disk_free < file_bytes + FOLDER_BYTES:
        found.append(_short("disk", file_bytes + FOLDER_BYTES, disk_free))
    if device_free < on_device:
        found.append(_short("device memory", on_device, device_free))
    return found


def disk_free(folder: Path) -> int:
    """Bytes. The folder must exist."""
    return shutil.disk_usage(folder).free


def _short(what: str, needed: int, free: int) -> str:
    return f"{what}: {needed / GIB:.1f} GiB needed, {free / GIB:.1f} GiB free"
