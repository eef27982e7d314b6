"""What a device asks of torch besides arithmetic: memory, streams, events, graphs. One protocol for every vendor."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor


class AcceleratorEvent(Protocol):
    """A point in a stream: `torch.cuda.Event` is one."""

    def record(self, stream: Any) -> None:
        """Mark what the stream has been given so far."""

    def query(self) -> bool:
        """Whether it has passed; one that was never recorded has."""

    def synchronize(self) -> None:
        """Make the host wait for it."""


class AcceleratorStream(Protocol):
    """Work in its order: `torch.cuda.Stream` is one."""

    def wait_event(self, event: Any) -> None:
        """Make what the stream is given from now on wait for the event."""


class Accelerator(Protocol):
    """One unit of hardware through torch. All that a device does, it does on the current stream."""

    @property
    def default_dtype(self) -> str:
        """Of activations, where nobody asks for another."""

    @property
    def processors(self) -> int:
        """How many programs of a kernel run at the same time, one on each."""

    @property
    def is_narrow(self) -> bool:
        """Whether only narrow tiles fit: see `rtp_torch.kernels.tile`."""

    def multiplies(self, codes: torch.dtype) -> bool:
        """Whether it has units for products of such codes, int8 or float8_e4m3fn, as `rtp_torch.scaled` asks for."""

    def memory_info(self) -> tuple[int, int]:
        """Bytes: (total, free)."""

    def reserve(self, nbytes: int) -> Tensor:
        """uint8 [nbytes] on the device, for the arena: once. Raises OutOfMemoryError."""

    def memory_beside(self) -> Mapping[str, int]:
        """Bytes of the device's memory that torch has for itself beside what it has reserved, by what they are for."""

    def peak_beside(self) -> int:
        """The most that these were together since then."""

    def pinned(self, nbytes: int) -> Tensor:
        """uint8 [nbytes] of host memory that copies of the device reach by themselves."""

    def current_stream(self) -> AcceleratorStream: ...

    def new_stream(self) -> AcceleratorStream: ...

    def on(self, stream: Any) -> AbstractContextManager[Any]:
        """A context in which that stream is the current one."""

    def new_event(self) -> AcceleratorEvent: ...

    def synchronize(self) -> None:
        """Make the host wait for all streams."""

    def launch(self, kernel: Callable[..., None], operands: Mapping[str, Any], writes: Collection[str]) -> None:
        """Put kernel(**operands), not one of torch's, on the current stream; `writes` names the tensors it changes."""

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        """Run `step` without doing its work, and return what does it, on the current stream, again and again."""

    def release(self) -> None:
        """Give back what torch keeps for later, as far as nobody holds it."""
