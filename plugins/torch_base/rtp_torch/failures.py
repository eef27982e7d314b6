"""What errors of torch, its libraries and Triton mean: no memory beside the arena, or a device that is lost.

By their words: torch gives most of them one class, and its older versions and Triton give them nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch

from rtp_core.plugin import Device, DeviceFailedError, LibraryMemoryError
from rtp_torch.accelerator import Accelerator

_NO_MEMORY = re.compile(r"out of memory|_ALLOC_FAILED")  # torch's, the driver's, and those of cuBLAS and hipBLAS
# After these every call fails with the same: "the process must be terminated and relaunched" (CUDA's runtime API).
_LOST = re.compile(
    r"illegal memory access|device-side assert|unspecified launch failure|misaligned address|illegal instruction"
    r"|invalid program counter|hardware stack error|global/shared address space|launch timed out"
    r"|uncorrectable (ECC|NVLink) error"
)


def is_known(error: Exception) -> bool:
    """Whether it means either."""
    return any(_first(words, error) is not None for words in (_LOST, _NO_MEMORY))


def lost(error: Exception, device: Device) -> DeviceFailedError | None:
    """The end of a device, if that is what the error means."""
    said = _first(_LOST, error)
    if said is None:
        return None
    blocking = "AMD_SERIALIZE_KERNEL=3" if torch.version.hip else "CUDA_LAUNCH_BLOCKING=1"
    return DeviceFailedError(
        f"{device.info.id} is lost: nothing runs on it any more in this process",
        why=said,
        hint=f"start again; with {blocking} and --debug the traceback ends at the kernel that failed",
    )


def no_memory(error: Exception, device: Device, accelerator: Accelerator) -> LibraryMemoryError | None:
    """Memory that a library did not get, if that is what the error means, and who has it."""
    said = _first(_NO_MEMORY, error)
    if said is None:
        return None
    stats, (total, free), beside = device.arena.stats(), device.memory_info(), device.memory_beside()
    known = ", ".join(f"{holder} has {_mib(nbytes)}" for holder, nbytes in beside.items())
    peak = f"together at most {_mib(accelerator.peak_beside())} so far, the rest is the driver's and of others"
    held = (
        f"of {_mib(total)} MiB the arena has {_mib(stats.total_bytes)}, {_mib(stats.used_bytes)} of them in use; "
        f"{_mib(max(0, total - free - stats.total_bytes))} are taken beside it{f': {known}, {peak}' if known else ''}; "
        f"{_mib(free)} are free"
    )
    return LibraryMemoryError(
        "out of memory beside the arena",
        where=device.info.id,
        why=f"{said}; {held}",
        hint=f"give --memory-budget less than {_mib(stats.total_bytes)}MiB: what it leaves is for libraries",
        table=f"{device.arena.table()}\n{held}",
        arena=device.arena,
        beside=beside,
    )


def _mib(nbytes: int) -> int:
    return round(nbytes / (1 << 20))


def _first(words: re.Pattern[str], error: BaseException | None) -> str | None:
    """The first line of what says so: the error, or one behind it, as where the end of a recording fails after it."""
    found = (str(one).partition("\n")[0] for one in _chain(error) if isinstance(one, RuntimeError))
    return next(filter(words.search, found), None)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
