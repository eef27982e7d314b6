"""The arena's memory as torch sees it: one tensor of bytes, of which every buffer is a view."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

import torch
from torch import Tensor

from rtp_core.plugin import Buffer, DeviceFailedError, DType, dtypes

TORCH_DTYPES: Mapping[DType, torch.dtype] = {
    dtypes.float32: torch.float32,
    dtypes.float16: torch.float16,
    dtypes.bfloat16: torch.bfloat16,
    dtypes.float8_e4m3fn: torch.float8_e4m3fn,
    dtypes.int64: torch.int64,
    dtypes.int32: torch.int32,
    dtypes.int8: torch.int8,
    dtypes.uint8: torch.uint8,
}
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # what a copy moves, by its width


class DeviceMemory:
    """`content`: uint8, at `address` by the arena's reckoning. A tensor of it owns nothing: its buffer does."""

    def __init__(self, content: Tensor, address: int) -> None:
        self.address = address
        self._typed = {dtype: content.view(dtype) for dtype in {*TORCH_DTYPES.values(), *_BITS.values()}}
        self._end: DeviceFailedError | None = None

    @property
    def is_lost(self) -> bool:
        return self._end is not None

    def lose(self, end: DeviceFailedError) -> None:
        """From now on every view of it raises that: ops see no other memory, and ask nothing for it before."""
        self._end = end.again()
        self._typed = _Lost(self._end)

    def check(self) -> None:
        """For what touches no memory. Raises DeviceFailedError."""
        if self._end is not None:
            raise self._end.again()

    def numbers(self, x: Buffer) -> Tensor:
        """A view of what x holds."""
        return self._view(TORCH_DTYPES[x.dtype], x)

    def bits(self, x: Buffer) -> Tensor:
        """The same as whole numbers of its width, which go anywhere unchanged."""
        return self._view(_BITS[x.dtype.itemsize], x)

    def _view(self, dtype: torch.dtype, x: Buffer) -> Tensor:
        return self._typed[dtype].as_strided(x.shape, x.strides, (x.address - self.address) // x.dtype.itemsize)


class _Lost(dict[torch.dtype, Tensor]):
    """In place of the memory of a device that is lost."""

    def __init__(self, end: DeviceFailedError) -> None:
        self._end = end

    def __missing__(self, dtype: torch.dtype) -> NoReturn:
        raise self._end.again()
