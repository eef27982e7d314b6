"""A device without its arithmetic: torch's own "meta" memory, where every op knows shapes and touches nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rtp_core.plugin import Buffer, Device, Event, MemorySpace, Region
from rtp_torch.memory import DeviceMemory

_BASE, _NBYTES = 1 << 44, 1 << 50  # an imaginary region: nothing is ever there


def region(space: MemorySpace) -> Region:
    """Room for any model."""
    return Region(space, _BASE, _NBYTES)


def memory() -> DeviceMemory:
    """What lies behind that region."""
    return DeviceMemory(torch.empty(_NBYTES, dtype=torch.uint8, device="meta"), _BASE)


def _copy(self: Device, dst: Buffer, src: Buffer) -> None:
    """Nothing: there are no contents."""


def _non_blocking_copy(self: Device, dst: Buffer, src: Buffer) -> Event:
    return Event()


def _event(self: Device) -> Event:
    return Event()


def _download(self: Device, x: Buffer) -> NDArray[Any]:
    """Zeros."""
    return np.zeros(x.shape, x.dtype.numpy)


def _launch(self: Device, kernel: Callable[..., None], *, writes: Collection[str], **operands: Any) -> None:
    """Nothing: its memory has been asked for."""


def _nothing(self: Device) -> None:
    """Nothing is under way, and nothing is held."""


def _capture(self: Device, step: Callable[[], None]) -> Callable[[], None]:
    step()
    return step


SERVICES: dict[str, Callable[..., Any]] = {
    "copy": _copy,
    "non_blocking_copy": _non_blocking_copy,
    "event": _event,
    "download": _download,
    "_launch": _launch,
    "synchronize": _nothing,
    "close": _nothing,
    "capture": _capture,
}
