"""A device without its arithmetic: torch's own "meta" memory, where every op knows shapes and touches nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from rtp_core.plugin import Buffer, Event, Region
from rtp_torch.communicator import TorchCommunicator
from rtp_torch.memory import DeviceMemory

if TYPE_CHECKING:
    from rtp_torch.device import TorchDevice

_BASE, _NBYTES = 1 << 44, 1 << 50  # an imaginary region: nothing is ever there


def rehearsing(device: TorchDevice) -> TorchDevice:
    """A twin whose ops run as they are over memory that is not there, so that each asks for what it would ask for."""
    twin = device.over(Region(device.space, _BASE, _NBYTES))
    twin._memory = DeviceMemory(torch.empty(_NBYTES, dtype=torch.uint8, device="meta"), _BASE)
    if isinstance(twin.communicator, TorchCommunicator):
        twin.communicator = twin.communicator.rehearsing(twin.alloc)
    return twin.bound(_SERVICES)


def _copy(self: TorchDevice, dst: Buffer, src: Buffer) -> None:
    """Nothing: there are no contents."""


def _non_blocking_copy(self: TorchDevice, dst: Buffer, src: Buffer) -> Event:
    return Event()


def _event(self: TorchDevice) -> Event:
    return Event()


def _download(self: TorchDevice, x: Buffer) -> NDArray[Any]:
    """Zeros."""
    return np.zeros(x.shape, x.dtype.numpy)


def _launch(self: TorchDevice, kernel: Callable[..., None], *, writes: Collection[str], **operands: Any) -> None:
    """Nothing: its memory has been asked for."""


def _nothing(self: TorchDevice) -> None:
    """Nothing is under way, and nothing is held."""


def _capture(self: TorchDevice, step: Callable[[], None]) -> Callable[[], None]:
    step()
    return step


_SERVICES: dict[str, Callable[..., Any]] = {
    "copy": _copy,
    "non_blocking_copy": _non_blocking_copy,
    "event": _event,
    "download": _download,
    "_launch": _launch,
    "synchronize": _nothing,
    "close": _nothing,
    "capture": _capture,
}
