"""A device that records every call of a primitive and computes nothing, in memory that is not there.

It shows what core asks of a device, in which order and with which shapes. A download gives zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from rtp_core.plugin import (
    OPS,
    PRIMITIVES,
    Buffer,
    Device,
    DeviceConfig,
    DeviceInfo,
    Manifest,
    MemorySpace,
    Region,
    Shape,
    allocated_results,
)
from rtp_test_devices.recorder_plugin import MANIFEST, TOTAL_BYTES

BASE = 1 << 44


@dataclass(frozen=True, slots=True)
class Call:
    """One call: the op, and its buffers by parameter name as (shape, name of the dtype)."""

    op: str
    operands: dict[str, tuple[Shape, str]]


def _recorded(op: str) -> Callable[..., Any]:
    """A method with the primitive's own signature, which notes the call and allocates what it returns."""
    signature = OPS[op].signature

    def method(self: RecorderDevice, *args: Any, **options: Any) -> Any:
        bound = signature.bind(self, *args, **options)
        bound.apply_defaults()
        arguments = bound.arguments
        self._record(op, arguments)
        return allocated_results(self, op, arguments)

    method.__name__, method.__doc__ = op, f"Record a call of {op}."
    method.__signature__ = signature  # type: ignore[attr-defined]
    return method


_Recorded: Any = type("_Recorded", (), {op: _recorded(op) for op in PRIMITIVES})


class RecorderDevice(_Recorded, Device):
    """`calls` grows by one entry for every primitive, copy and replayed step; clear it at will."""

    manifest: ClassVar[Manifest] = MANIFEST
    space = MemorySpace("recorder:0", host_addressable=False)

    def __init__(self, info: DeviceInfo, config: DeviceConfig) -> None:
        super().__init__(info, config)
        self.calls: list[Call] = []

    def memory_info(self) -> tuple[int, int]:
        return TOTAL_BYTES, TOTAL_BYTES

    def reserve(self, nbytes: int) -> Region:
        return Region(self.space, BASE, nbytes)

    def rehearsal(self) -> Device:
        return self.over(Region(self.space, BASE, TOTAL_BYTES))

    def capture(self, step: Callable[[], None]) -> Callable[[], None]:
        step()
        return lambda: self._record("replay", {})

    def copy(self, dst: Buffer, src: Buffer) -> None:
        self._record("copy", {"dst": dst, "src": src})
        if dst.space.host_addressable:
            dst.numpy()[...] = src.numpy() if src.space.host_addressable else 0

    def _record(self, op: str, arguments: dict[str, Any]) -> None:
        operands = {name: (x.shape, x.dtype.name) for name, x in arguments.items() if isinstance(x, Buffer)}
        self.calls.append(Call(op, operands))
