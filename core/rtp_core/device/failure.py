"""What an error at run time was: the device's end, a want of memory and who has it, or the fault of an override.

Worked out on the failing path only, an override from the traceback.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from types import FrameType, TracebackType
from typing import Any

from rtp_core.device.device import Device
from rtp_core.device.op import Override
from rtp_core.errors import DeviceError, DeviceFailedError, OutOfMemoryError, RtpError
from rtp_core.memory.buffer import Buffer
from rtp_core.memory.qbuffer import QBuffer
from rtp_core.memory.table import with_beside

MAX_OPERANDS = 16  # in one message
MAX_NESTING = 3  # weights are dataclasses of tuples of dataclasses


class Failures:
    """Around the use of a device: an error that passes leaves as what the device or an override explains it to be.

    Once the device is lost, every further use raises that at once.
    """

    def __init__(self, device: Device, serving: Iterable[Override] = ()) -> None:
        self._device, self._serving = device, serving
        self._lost: DeviceFailedError | None = None

    def __enter__(self) -> None:
        if self._lost is not None:
            raise self._lost.again()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, Exception):
            return
        explained = self._explained(error)
        leaving = error if explained is None else explained
        if isinstance(leaving, DeviceFailedError):
            self._lost = leaving.again()
        elif isinstance(leaving, OutOfMemoryError) and not leaving.beside:
            leaving.beside = dict(self._device.memory_beside())
            leaving.table = with_beside(leaving.table, leaving.beside)
        if explained is not None:
            raise explained from error

    def _explained(self, error: Exception) -> RtpError | None:
        own = None if isinstance(error, RtpError) else self._device.failure(error)
        return own or failed_override(error, self._serving, self._device.info.id)


def failed_override(error: BaseException, serving: Iterable[Override], where: str) -> DeviceError | None:
    """The innermost override under an exception, as an error that names op, implementation, operands and what
    disables it; None where no override had a part in it, or memory ran out or the device is lost, which is not an
    override's fault."""
    if isinstance(error, MemoryError | DeviceFailedError):
        return None
    by_code = {getattr(override.function, "__code__", None): override for override in serving}
    found: tuple[Override, FrameType] | None = None
    trace = error.__traceback__
    while trace is not None:
        override = by_code.get(trace.tb_frame.f_code)
        if override is not None:
            found = override, trace.tb_frame
        trace = trace.tb_next
    if found is None:
        return None
    override, frame = found
    operands = ", ".join(list(_operands(frame))[:MAX_OPERANDS]) or "no buffers"
    return DeviceError(
        f"{override.op} failed in {override.impl}",
        where=where,
        why=f"{type(error).__name__}: {error}; its operands are {operands}",
        hint=f"--disable-impl {override.impl}",
    )


def _operands(frame: FrameType) -> Iterator[str]:
    """The buffers among a call's arguments, as they are by now, with shape and dtype."""
    code, values = frame.f_code, frame.f_locals
    count = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & 0x04) + bool(code.co_flags & 0x08)
    for name in code.co_varnames[1:count]:
        if name in values:
            yield from _described(name, values[name], 0)


def _described(name: str, value: Any, nesting: int) -> Iterator[str]:
    if isinstance(value, Buffer):
        stored = value.scheme.name if isinstance(value, QBuffer) else value.dtype.name
        yield f"{name} {stored} [{', '.join(map(str, value.shape))}]"
    elif nesting == MAX_NESTING:
        return
    elif is_dataclass(value):
        for field in fields(value):
            yield from _described(f"{name}.{field.name}", getattr(value, field.name), nesting + 1)
    elif isinstance(value, tuple | list):
        for i, item in enumerate(value[:MAX_OPERANDS]):
            yield from _described(f"{name}[{i}]", item, nesting + 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _described(str(key), item, nesting + 1)
