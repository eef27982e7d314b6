"""memory: what an op takes it gives back; running out is an error of its own, after which the device works."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from itertools import pairwise

from rtp_core import dtypes
from rtp_core.conformance.case import Case
from rtp_core.conformance.expectation import CheckFailed, expect
from rtp_core.conformance.groups.composites import serves
from rtp_core.conformance.op_check import Setting, check, results
from rtp_core.conformance.settings import BY_OP
from rtp_core.conformance.subject import Subject
from rtp_core.device.device import OPS, Device
from rtp_core.errors import OutOfMemoryError
from rtp_core.memory.buffer import Buffer

GROUP = "memory"
SMALL = 2 << 20  # bytes, of a device that is to run out
BIG = 600  # rows whose result does not fit where nothing does
ROUNDS = 3  # a first call may set something up for good


def cases(subject: Subject) -> Iterator[Case]:
    if subject.opening_error:
        return
    for op in OPS:
        for setting in _settings(op, subject):
            yield Case(
                GROUP, f"{setting.op} {setting.operands.name} gives back what it takes", partial(_balance, setting)
            )
    yield Case(GROUP, "allocations are aligned and their own", _alignment)
    yield Case(GROUP, "running out raises OutOfMemoryError with the table", _runs_out)
    yield Case(GROUP, "what is held beside the arena is bytes by name", _beside)
    for op in ("gemm", "rms_norm", "softmax"):
        yield Case(GROUP, f"{op} without room raises OutOfMemoryError and works after it", partial(_survives, op))


def _settings(op: str, subject: Subject) -> Iterator[Setting]:
    for one in BY_OP.get(op, ()):
        yield Setting(one, "float32", scheme=one.schemes(subject.manifest.schemes)[-1])


def _balance(setting: Setting, subject: Subject) -> None:
    ways = [subject.device]
    ways += [subject.device.bound({o.op: o.function}) for o in subject.device.overrides if serves(o, setting)]
    for ops in ways:
        used = [_used_after(setting, subject, ops) for _ in range(ROUNDS)]
        if used[-1] != used[0]:
            gc.collect()  # what only a cycle holds is no leak; looking for it after every call would be slow
            used[-1] = subject.device.arena.stats().used_bytes
        expect(
            used[-1] <= used[0],
            f"expected {used[0]} bytes in use after {setting.op} as after the first call, got {used[-1]}: "
            f"{dict(list(subject.device.arena.totals().items())[:3])}",
        )
    try:
        subject.device.arena.check_integrity()
    except AssertionError as error:
        raise CheckFailed(f"expected an arena without gaps and overlaps, got {error}") from error


def _used_after(setting: Setting, subject: Subject, ops: Device) -> int:
    results(setting, subject, ops)
    return subject.device.arena.stats().used_bytes


def _alignment(subject: Subject) -> None:
    device = subject.device
    held = [device.alloc((size,), dtypes.uint8, "conformance") for size in (1, 7, 64, 0, 1000, 4097)]
    for buffer in held:
        rest = buffer.address % device.alignment
        expect(rest == 0, f"expected addresses that are multiples of {device.alignment}, got {buffer.address:#x}")
    spans = sorted((buffer.address, buffer.address + max(buffer.nbytes, 1)) for buffer in held)
    for (_, end), (start, _) in pairwise(spans):
        expect(end <= start, f"expected allocations apart from each other, got {end:#x} over {start:#x}")


def _runs_out(subject: Subject) -> None:
    held: list[Buffer] = []
    with closing(subject.open(SMALL)) as device:
        error = _exhaust(device, held, SMALL // 8)
        expect(bool(error.table), "expected the memory table in an OutOfMemoryError, got none")
        total = sum(buffer.nbytes for buffer in held)
        expect(total <= SMALL, f"expected at most {SMALL} bytes from a budget of as many, got {total}")


def _exhaust(device: Device, held: list[Buffer], size: int) -> OutOfMemoryError:
    """Allocate until it fails, and return how."""
    for _ in range(2 * SMALL // size):
        try:
            held.append(device.alloc((size,), dtypes.uint8, "conformance"))
        except OutOfMemoryError as error:
            return error
    raise CheckFailed(f"expected OutOfMemoryError within a budget of {SMALL} bytes, got {len(held)} x {size} bytes")


def _beside(subject: Subject) -> None:
    for holder, nbytes in subject.device.memory_beside().items():
        expect(isinstance(holder, str) and bool(holder.strip()), f"expected the name of a holder, got {holder!r}")
        expect(
            isinstance(nbytes, int) and not isinstance(nbytes, bool) and nbytes >= 0,
            f"expected bytes, 0 or more, that {holder} holds beside the arena, got {nbytes!r}",
        )


def _survives(op: str, subject: Subject) -> None:
    with closing(subject.open(SMALL)) as device:
        _call_without_room(Setting(BY_OP[op][0], "float32", rows=BIG), subject, device)
        gc.collect()
        check(Setting(BY_OP[op][0], "float32"), subject, device)


def _call_without_room(setting: Setting, subject: Subject, device: Device) -> None:
    call = setting.operands.make(setting.bench(device, subject))
    held: list[Buffer] = []
    for size in (SMALL // 64, 64):
        _exhaust(device, held, size)
    try:
        returned = getattr(device, setting.op)(*call.args, **call.options)
    except OutOfMemoryError:
        return
    raise CheckFailed(f"expected OutOfMemoryError from {setting.op} where there is no room, got {returned!r}")
