"""Storage: the bytes behind one or more buffers, which go back when nobody holds them any more."""

from __future__ import annotations

from collections import deque
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rtp_core.errors import DoubleFreeError
from rtp_core.memory.space import MemorySpace


class Owner(Protocol):
    """Where storage goes back to: the arena. `abandoned` takes addresses that nobody holds any more."""

    abandoned: deque[int]

    def release(self, address: int) -> None: ...

    def host_bytes(self, address: int, nbytes: int) -> NDArray[np.uint8] | None: ...


class _HeldBytes:
    """Bytes with the storage that must outlive them: NumPy holds on to the object whose interface it reads."""

    __slots__ = ("__array_interface__", "_data", "_storage")

    def __init__(self, storage: Storage, data: NDArray[np.uint8]) -> None:
        self.__array_interface__ = data.__array_interface__
        self._storage, self._data = storage, data


class Storage:
    """The bytes behind one or more buffers. Goes back to its arena when the last holder lets go.

    Storage that borrows memory from elsewhere has no arena and frees nothing.
    """

    __slots__ = ("_arena", "_bytes", "address", "nbytes", "space", "tag")

    def __init__(
        self,
        space: MemorySpace,
        address: int,
        nbytes: int,
        tag: str,
        arena: Owner | None = None,
        borrowed: NDArray[np.uint8] | None = None,
    ) -> None:
        self.space = space
        self.address = address
        self.nbytes = nbytes
        self.tag = tag
        self._arena = arena
        self._bytes = borrowed

    @property
    def is_borrowed(self) -> bool:
        return self._arena is None

    def host_bytes(self) -> NDArray[np.uint8] | None:
        """The bytes as the host sees them [nbytes], or None where it cannot. The array holds this storage."""
        if self._arena is None:
            return self._bytes
        data = self._arena.host_bytes(self.address, self.nbytes)
        return None if data is None else np.asarray(_HeldBytes(self, data))

    def free(self) -> None:
        """Give the bytes back now. Raises DoubleFreeError the second time."""
        if self._arena is None:
            raise DoubleFreeError(f"storage {self.tag!r} at {self.address:#x} is borrowed or already free")
        arena, self._arena, self._bytes = self._arena, None, None
        arena.release(self.address)

    def __del__(self) -> None:
        # Perhaps inside a garbage collection, in the middle of an allocation or on another thread: the address only
        # queues (append is atomic), and the arena takes it back before its next act.
        if self._arena is not None:
            self._arena.abandoned.append(self.address)
