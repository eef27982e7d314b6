"""Buffer: typed, strided bytes in some memory space. It has no arithmetic: ops belong to the device."""

from __future__ import annotations

from math import prod
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from rtp_core import dtypes
from rtp_core.dtypes import DType
from rtp_core.errors import ConfigError, MemorySpaceError
from rtp_core.memory.space import HOST, MemorySpace
from rtp_core.memory.storage import Storage

Shape = tuple[int, ...]

_ALL = slice(None)


def contiguous_strides(shape: Shape) -> Shape:
    """Row-major strides, in elements."""
    rank = len(shape)  # the ranks that every step makes thousands of come first
    if rank == 2:
        return (shape[1], 1)
    if rank == 3:
        return (shape[1] * shape[2], shape[2], 1)
    if rank == 1:
        return (1,)
    strides = []
    step = 1
    for extent in reversed(shape):
        strides.append(step)
        step *= extent
    return tuple(reversed(strides))


class Buffer:
    """`shape` elements of `dtype`, `strides` (in elements) apart, from `offset` bytes into `storage`.

    Views share storage. A buffer owns no memory itself: its storage does, and lives as long as any view.
    """

    __slots__ = ("address", "dtype", "offset", "shape", "storage", "strides")

    def __init__(
        self, storage: Storage, dtype: DType, shape: Shape, strides: Shape | None = None, offset: int = 0
    ) -> None:
        self.storage, self.dtype, self.shape, self.offset = storage, dtype, shape, offset
        self.strides = contiguous_strides(shape) if strides is None else strides
        self.address = storage.address + offset

    @classmethod
    def borrow(cls, array: NDArray[Any], tag: str = "host") -> Buffer:
        """A host buffer over a C-contiguous array's own memory; nothing is copied."""
        if not array.flags.c_contiguous:
            raise ConfigError(
                "cannot borrow a strided array", why=f"got strides {array.strides} for shape {array.shape}"
            )
        flat = array.reshape(-1).view(np.uint8)
        storage = Storage(HOST, flat.__array_interface__["data"][0], flat.nbytes, tag, borrowed=flat)
        return cls(storage, dtypes.of_numpy(array.dtype), array.shape)

    @property
    def space(self) -> MemorySpace:
        return self.storage.space

    @property
    def tag(self) -> str:
        return self.storage.tag

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements, gaps between strides not counted."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def is_contiguous(self) -> bool:
        return self.strides == contiguous_strides(self.shape) or self.size == 0

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.shape)) or "scalar"
        return (
            f"{type(self).__name__}({shape} {self.dtype} at {self.address:#x} in {self.space.name}, tag {self.tag!r})"
        )

    # -- views ---------------------------------------------------------------------------------------------------

    def __getitem__(self, key: int | slice | tuple[int | slice, ...]) -> Self:
        """A view: integers drop an axis, slices (positive steps) keep it. Raises IndexError outside the shape."""
        keys = key if isinstance(key, tuple) else (key,)
        if len(keys) > len(self.shape):
            raise IndexError(f"{len(keys)} indices for shape {self.shape}")
        offset, shape, strides = 0, [], []
        for axis, k in enumerate(keys):
            extent, stride = self.shape[axis], self.strides[axis]
            if k == _ALL:
                shape.append(extent)
                strides.append(stride)
            elif isinstance(k, slice):
                start, stop, step = k.indices(extent)
                if step < 1:
                    raise IndexError(f"slice step {step} in axis {axis}: expected a positive step")
                shape.append(max(0, -(-(stop - start) // step)))
                strides.append(stride * step)
                offset += start * stride
            else:
                if not -extent <= k < extent:
                    raise IndexError(f"index {k} in axis {axis} of shape {self.shape}")
                offset += (k % extent) * stride
        rest = len(keys)
        return self._view((*shape, *self.shape[rest:]), (*strides, *self.strides[rest:]), offset)

    def view(self, *shape: int) -> Self:
        """The same elements under another shape. Raises ConfigError where that needs a copy or the size differs."""
        if prod(shape) != self.size:
            raise ConfigError(f"cannot view {self.shape} as {shape}", why="the number of elements differs")
        if self.is_contiguous:
            return self._view(shape, contiguous_strides(shape), 0)
        kept = len(self.shape) - 1
        if shape[:kept] == self.shape[:kept]:  # only the last axis is split: heads of a slice of qkv
            step = self.strides[kept]
            split = tuple(stride * step for stride in contiguous_strides(shape[kept:]))
            return self._view(shape, (*self.strides[:kept], *split), 0)
        strides = _split_strides(self.shape, self.strides, shape)
        if strides is None:
            raise ConfigError(f"cannot view {self.shape} as {shape}", why=f"strides {self.strides} need a copy")
        return self._view(shape, strides, 0)

    def transpose(self, *axes: int) -> Self:
        """A view with its axes in another order."""
        if sorted(axes) != list(range(len(self.shape))):
            raise ConfigError(f"cannot transpose {self.shape} by {axes}")
        return self._view(tuple(self.shape[a] for a in axes), tuple(self.strides[a] for a in axes), 0)

    def _view(self, shape: Shape, strides: Shape, offset: int) -> Self:
        # A view of nothing stays at the start: its own offset may lie past the end of its storage.
        offset = self.offset + (0 if 0 in shape else offset * self.dtype.itemsize)
        return type(self)(self.storage, self.dtype, shape, strides, offset)

    # -- the host's view -----------------------------------------------------------------------------------------

    def numpy(self) -> NDArray[Any]:
        """A NumPy array over the same memory. Raises MemorySpaceError where the host cannot address it."""
        data = self.storage.host_bytes()
        if data is None:
            raise MemorySpaceError(
                f"the host cannot address {self!r}", why="its memory space is a handle", hint="device.download(buffer)"
            )
        itemsize = self.dtype.itemsize
        strides = tuple(stride * itemsize for stride in self.strides)
        return np.ndarray(self.shape, self.dtype.numpy, buffer=data, offset=self.offset, strides=strides)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def __dlpack__(self, **options: Any) -> Any:
        return self.numpy().__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.numpy().__dlpack_device__()

    def __buffer__(self, flags: int, /) -> memoryview:
        return memoryview(self.numpy().data)


def _split_strides(shape: Shape, strides: Shape, target: Shape) -> Shape | None:
    """Strides of `target` over a strided `shape`, or None where no view exists.

    Walks both shapes together, axis group by axis group: a group of source axes can be regrouped
    only if each of its axes is a whole step of the next one.
    """
    source = [(n, s) for n, s in zip(shape, strides, strict=True) if n != 1]
    result: list[int] = []
    i = 0
    axes = list(target)
    while axes:
        want = axes.pop(0)
        group = [want]
        if want == 1:
            result.append(0 if i >= len(source) else source[i][0] * source[i][1])
            continue
        if i >= len(source):
            return None
        have, last = source[i]
        i += 1
        total = want
        while total != have:
            if total < have:
                if not axes:
                    return None
                group.append(axes.pop(0))
                total *= group[-1]
            else:
                if i >= len(source) or last != source[i][0] * source[i][1]:
                    return None
                have *= source[i][0]
                last = source[i][1]
                i += 1
        result.extend(stride * last for stride in contiguous_strides(tuple(group)))
    return tuple(result)
