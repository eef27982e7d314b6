"""Host arrays on their way to the device: through pinned memory, so that neither side waits for the other."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rtp_core.plugin import DeviceError
from rtp_torch.accelerator import Accelerator

SLOT_BYTES = 4 << 20
SLOTS = 4


class _Slot:
    def __init__(self, accelerator: Accelerator) -> None:
        self.content = accelerator.pinned(SLOT_BYTES)
        self.bytes: NDArray[np.uint8] = self.content.numpy()
        self.is_read = accelerator.new_event()


class Staging:
    """A ring of pinned memory. What it has been given may change at once; the device reads the copy."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._ring = deque(_Slot(accelerator) for _ in range(SLOTS))

    def bring(self, dst: Tensor, src: NDArray[Any]) -> None:
        """dst[...] = src on the current stream. Shapes and widths are equal, strides are any."""
        if src.nbytes > SLOT_BYTES:
            axis = int(np.argmax(src.shape))
            half = src.shape[axis] // 2
            for to, of in zip(dst.tensor_split([half], axis), np.split(src, [half], axis), strict=True):
                self.bring(to, of)
            return
        self._ring.rotate(-1)
        slot = self._ring[0]
        slot.is_read.synchronize()  # the device may still be reading what was here
        np.copyto(slot.bytes[: src.nbytes].view(src.dtype).reshape(src.shape), src)
        dst.copy_(slot.content[: src.nbytes].view(dst.dtype).view(dst.shape), non_blocking=True)
        slot.is_read.record(self._accelerator.current_stream())


def onto(dst: NDArray[Any], src: Tensor, *, non_blocking: bool) -> None:
    """dst[...] = src on the current stream. Shapes and widths are equal, strides are any."""
    if not dst.flags.writeable:
        raise DeviceError("cannot copy to a host array", why="it is read-only")
    bits = torch.from_numpy(dst.view(f"i{dst.itemsize}" if dst.itemsize > 1 else "u1"))
    # Into an array with gaps torch goes by way of another one, which has to be complete by then.
    bits.copy_(src, non_blocking=non_blocking and bits.is_contiguous())
