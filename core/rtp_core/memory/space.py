"""Memory spaces, and the regions that a device reserves in them."""

from __future__ import annotations

import ctypes
import mmap
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtp_core.errors import OutOfMemoryError

# More may be reserved than the machine has. The name is there since Python 3.13; the number is Linux's.
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)


@dataclass(frozen=True, slots=True)
class MemorySpace:
    """One kind of memory. Where the host cannot address it, only a device's `copy` reaches it."""

    name: str  # "host", or a device id such as "acme:0"
    host_addressable: bool


HOST = MemorySpace("host", host_addressable=True)
NOWHERE = MemorySpace("nowhere", host_addressable=False)  # of buffers that have a shape and no contents


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """A reserved, contiguous range of one memory space.

    `address` is a pointer where the space is host-addressable and otherwise whatever the device
    understands. `bytes` is the host's view of it, or None. `owner` keeps the memory alive.
    """

    space: MemorySpace
    address: int
    nbytes: int
    bytes: NDArray[np.uint8] | None = None
    owner: Any = None


def give_back_free_memory() -> None:
    """Let the system have what the C library has been given back and keeps. Where there is no such call, nothing."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def reserve_host(nbytes: int) -> Region:
    """Reserve `nbytes` of anonymous host memory; the system commits pages on first use.

    Raises OutOfMemoryError where the system has no such range.
    """
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE
    try:
        pages = mmap.mmap(-1, nbytes, flags=flags)
    except (OSError, ValueError, OverflowError) as error:
        raise OutOfMemoryError(
            f"cannot reserve {nbytes} bytes of host memory", why=str(error), hint="ask for less with --memory-budget"
        ) from error
    if hasattr(mmap, "MADV_HUGEPAGE"):
        pages.madvise(mmap.MADV_HUGEPAGE)
    view = np.frombuffer(pages, np.uint8)
    return Region(HOST, view.ctypes.data, nbytes, view, pages)
