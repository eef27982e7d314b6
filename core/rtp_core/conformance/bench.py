"""Operands of a case: random, placed between guards, and remembered, so that every stray write is seen.

A bench is deterministic: two of one seed on two devices hold the same numbers. Only whole buffers cross between
host and device, so nothing here relies on strided copies, which the group `copies` checks by itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rtp_core import dtypes
from rtp_core.conformance.dims import SMALL, Dims
from rtp_core.conformance.expectation import CheckFailed
from rtp_core.device import reference_ops
from rtp_core.device.device import Device
from rtp_core.dtypes import DType
from rtp_core.memory.buffer import Buffer
from rtp_core.memory.qbuffer import SCHEMES, QBuffer

Layout = Literal["fresh", "placed", "strided"]
LAYOUTS: tuple[Layout, ...] = ("fresh", "placed", "strided")
GUARD_BYTES = 256  # around every buffer: a multiple of any alignment that a device may want
CANARY = 0xFF  # NaN in every float, -1 in every integer: what reads a gap shows it


class Role(Enum):
    """What an op may do with an operand."""

    INPUT = "input"  # nothing
    SPENT = "spent"  # write over it: the caller has given it up
    WRITTEN = "written"  # what it writes there is a result


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """A buffer among guard bytes: `base` is all of it, `view` the part that an op sees, `where` it lies in there."""

    base: Buffer
    view: Buffer
    before: NDArray[np.uint8]  # the bytes of `base` when it was placed
    where: tuple[slice, ...]  # of `view` in `base`, once that is shaped like `wide`
    wide: tuple[int, ...]
    role: Role

    def numbers(self, data: NDArray[np.uint8]) -> NDArray[Any]:
        """The view's part of the base's bytes."""
        body = data[GUARD_BYTES : data.size - GUARD_BYTES].view(self.view.dtype.numpy)
        return body[: int(np.prod(self.wide))].reshape(self.wide)[self.where]


@dataclass(slots=True)
class Bench:
    """Where the operands of one case are made.

    `dtype` is that of the numbers. On the oracle (`is_oracle`) they have the same values in float32, so that
    nothing is rounded on the way. "placed": `out` lies between guards; "strided": so do all operands, with gaps.
    """

    device: Device
    dtype: DType
    rows: int = 5
    layout: Layout = "fresh"
    dims: Dims = SMALL
    scheme: str = "none"
    features: frozenset[str] = frozenset()
    block_size: int = 4
    kv_order: str = "KBD"
    is_oracle: bool = False
    seed: int = 7
    placed: list[Placed] = field(default_factory=list)
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def place(
        self, numbers: Any, dtype: DType | None = None, role: Role = Role.INPUT, *, is_whole: bool = False
    ) -> Buffer:
        """These numbers on the device, rounded to `dtype`, by default the bench's own; `is_whole` without gaps."""
        array = np.asarray(numbers).astype((dtype or self.dtype).numpy)
        if self.is_oracle and array.dtype.kind not in "iu":
            array = array.astype(np.float32)
        return self._placed(array, role, is_whole).view

    def normal(self, *shape: int, scale: float = 1.0, role: Role = Role.INPUT) -> Buffer:
        return self.place(self.rng.standard_normal(shape) * scale, role=role)

    def floats(self, numbers: Any) -> Buffer:
        """Numbers that are float32 whatever the bench's dtype: angles and masks."""
        return self.place(numbers, dtypes.float32)

    def ids(self, numbers: Any) -> Buffer:
        return self.place(np.asarray(numbers, np.int32), dtypes.int32)

    def out(self, shape: tuple[int, ...], dtype: DType) -> Buffer:
        """Room for a result."""
        return self._placed(np.zeros(shape, dtype.numpy), Role.WRITTEN).view

    def matrix(self, rows: int, columns: int) -> Buffer:
        """A weight [rows, columns] as a model's: in the bench's scheme, prepared for its device."""
        numbers = (self.rng.standard_normal((rows, columns)) * columns**-0.5).astype(self.dtype.numpy)
        if self.scheme == "none":
            return self.place(numbers)
        return self.device.prepare_weight(self.quantized(numbers), "conformance")

    def quantized(self, numbers: NDArray[Any]) -> QBuffer:
        """These numbers in the bench's scheme, in host memory."""
        scheme = SCHEMES[self.scheme]
        parts = [Buffer.borrow(part, "conformance") for part in reference_ops.quantize(numbers, scheme)]
        return QBuffer.of_parts(scheme, (numbers.shape[0], numbers.shape[1]), parts)

    def vector_or_none(self, feature: str, size: int) -> Buffer | None:
        """A vector where the bench has the feature."""
        return self.normal(size) if feature in self.features else None

    def results(self) -> list[NDArray[Any]]:
        """What the op left in the operands that it writes. Raises CheckFailed where it wrote anywhere else."""
        found = []
        for number, placed in enumerate(self.placed):
            after = self.device.download(placed.base)
            if placed.role is Role.INPUT:
                _expect_same(after, placed.before, f"operand {number} of shape {placed.view.shape} was modified")
                continue
            if placed.role is Role.WRITTEN:
                found.append(placed.numbers(after).copy())
            for data in (before := placed.before.copy(), after):
                placed.numbers(data)[...] = 0
            _expect_same(after, before, f"bytes outside of a buffer of shape {placed.view.shape} were written")
        return found

    def _placed(self, array: NDArray[Any], role: Role, is_whole: bool = False) -> Placed:
        shape = array.shape
        has_gaps = self.layout == "strided" and len(shape) > 1 and not is_whole
        wide = (2 * shape[0], *shape[1:-1], shape[-1] + 3) if has_gaps else shape
        where = (
            (slice(0, None, 2), *[slice(None)] * (len(shape) - 2), slice(1, 1 + shape[-1]))
            if has_gaps
            else tuple(slice(None) for _ in shape)
        )
        itemsize = array.dtype.itemsize
        nbytes = int(np.prod(wide)) * itemsize
        before = np.full(GUARD_BYTES + -(-nbytes // 64) * 64 + GUARD_BYTES, CANARY, np.uint8)
        base = self.device.alloc(before.shape, dtypes.uint8, "conformance")
        body = Buffer(base.storage, dtypes.of_numpy(array.dtype), wide, None, GUARD_BYTES)
        placed = Placed(base, body[where] if where else body, before, where, wide, role)
        placed.numbers(before)[...] = array
        self.device.copy(base, Buffer.borrow(before, "conformance"))
        self.placed.append(placed)
        return placed


def _expect_same(after: NDArray[np.uint8], before: NDArray[np.uint8], message: str) -> None:
    wrong = np.flatnonzero(after != before)
    if len(wrong):
        at = int(wrong[0])
        raise CheckFailed(f"{message}: expected {before[at]:#04x} at byte {at}, got {after[at]:#04x}")
