"""speed_floor: an override is not slower than the default that it replaces."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from statistics import median

from rtp_core.conformance.case import Case
from rtp_core.conformance.dims import Dims
from rtp_core.conformance.expectation import expect
from rtp_core.conformance.groups.composites import serves
from rtp_core.conformance.op_check import Setting
from rtp_core.conformance.settings import BY_OP
from rtp_core.conformance.subject import Subject
from rtp_core.device.device import Device
from rtp_core.device.op import Override

GROUP = "speed_floor"
MARGIN = 1.2
ROUNDS = 15
MODEL = Dims(576, 1536, 9, 3, 64, 2048)  # of a small model, where an override has something to win
ROWS = (1, 64)


def cases(subject: Subject) -> Iterator[Case]:
    if subject.opening_error:
        return
    dtype = subject.device.default_dtype
    for override in subject.device.overrides:
        for one in BY_OP.get(override.op, ()):
            for scheme in one.schemes(subject.manifest.schemes):
                for rows in ROWS:
                    setting = Setting(one, dtype, rows=rows, scheme=scheme, dims=MODEL)
                    if rows >= one.min_rows and serves(override, setting):
                        name = f"{override.impl} {setting.name}"
                        yield Case(GROUP, name, partial(_is_no_slower, override, setting))


def _is_no_slower(override: Override, setting: Setting, subject: Subject) -> None:
    device = subject.device
    own, default = device.bound({override.op: override.function}), device
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):  # interleaved, so that whatever else the machine does meets both
        for ops, found in zip((own, default), times, strict=True):
            found.append(_seconds(ops, setting, subject))
    a, b = (median(found[1:]) for found in times)
    expect(
        a <= MARGIN * b,
        f"expected {override.impl} to take at most {MARGIN} times its default's {b * 1e6:.0f} us, got {a * 1e6:.0f} us",
    )


def _seconds(ops: Device, setting: Setting, subject: Subject) -> float:
    """One call, on operands of its own: some ops spend them."""
    call = setting.operands.make(setting.bench(ops, subject))
    ops.synchronize()
    start = time.perf_counter()
    returned = getattr(ops, setting.op)(*call.args, **call.options)
    ops.synchronize()
    del returned
    return time.perf_counter() - start
