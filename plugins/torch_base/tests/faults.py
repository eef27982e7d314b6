"""What goes wrong on a GPU, planted in the lazy accelerator: once, or for good."""

from __future__ import annotations

from lazy_accelerator import Fault

ILLEGAL_ACCESS = "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be asynchronous."


class NoMemoryAt(Fault):
    """A library finds no memory of its own in the n-th op from now on, and in that one only."""

    def __init__(self, n: int, error: Exception) -> None:
        self._left, self._error = n, error

    def at_op(self) -> None:
        self._left -= 1
        if self._left == 0:
            raise self._error


class LostAtWait(Fault):
    """A kernel has failed, which the host learns when it waits; from then on every call fails with the same."""

    def __init__(self, error: type[Exception] = RuntimeError) -> None:
        self._error, self.is_told = error, False
        self.calls = 0  # once it is told

    def at_op(self) -> None:
        if self.is_told:
            self.calls += 1
            raise self._error(ILLEGAL_ACCESS)

    def at_wait(self) -> None:
        self.at_op()
        self.is_told = True
        raise self._error(ILLEGAL_ACCESS)
