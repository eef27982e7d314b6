"""The hardware, simulated: memory that the host knows by handles alone, and kernels that see it."""

from __future__ import annotations

from typing import Any

import numpy as np

FIRST_HANDLE = 0x7000_0000_0000  # to the host it points nowhere


class Card:
    """One opened card with `nbytes` of its memory reserved, from `FIRST_HANDLE` on."""

    def __init__(self, nbytes: int) -> None:
        self._memory = np.zeros(nbytes, np.uint8)  # the system gives pages when they are first used

    def see(self, handle: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
        """What a kernel on the card sees at a handle; `strides` in elements."""
        steps = [step * dtype.itemsize for step in strides]
        return np.ndarray(shape, dtype, self._memory.data, handle - FIRST_HANDLE, steps)
