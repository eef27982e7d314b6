"""The work space of the kernels: one block of the device's arena, for which a larger one comes when a call needs it."""

from __future__ import annotations

from threading import get_ident
from typing import Any

from rtp_core.plugin import Device, Storage
from rtp_cpu._native import ffi

TAG = "kernel_scratch"


class Scratch:
    """Holds the block, and the errors of calls that got none. C knows it by `context`, which must live as long."""

    def __init__(self, device: Device) -> None:
        self._arena = device.arena  # and not the device, which holds this
        self._block: Storage | None = None
        self._errors: dict[int, BaseException] = {}  # by thread

    def exchange(self, nbytes: int) -> int:
        """The address of a block of `nbytes` in place of the one before. Raises OutOfMemoryError, then with none."""
        self.free()
        with self._arena.lifetime("private"):
            self._block = self._arena.allocate(nbytes, TAG)
        return self._block.address

    def free(self) -> None:
        """Give the block back. Twice is once."""
        block, self._block = self._block, None
        if block is not None:
            block.free()

    def keep_error(self, error: BaseException) -> None:
        """Python cannot raise through C: the error waits for the status that tells this thread of it."""
        self._errors[get_ident()] = error

    def take_error(self) -> BaseException | None:
        """Why the last call of this thread got no block, once."""
        return self._errors.pop(get_ident(), None)


def _keep_error(_kind: Any, error: BaseException, traceback: Any) -> None:
    ffi.from_handle(traceback.tb_frame.f_locals["context"]).keep_error(error)


@ffi.def_extern(onerror=_keep_error)
def rtp_cpu_give_scratch(context: Any, nbytes: int) -> Any:
    return ffi.cast("void *", ffi.from_handle(context).exchange(nbytes))
