"""primitives: each against its definition, in every dtype, with no rows, one and an odd number, between guards."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from rtp_core.conformance.case import Case
from rtp_core.conformance.op_check import Setting, check
from rtp_core.conformance.settings import fail, primitive_settings, replayed, uncovered
from rtp_core.conformance.subject import Subject
from rtp_core.device.device import OPS

GROUP = "primitives"


def cases(subject: Subject) -> Iterator[Case]:
    for op, why in uncovered():
        if OPS[op].is_primitive:
            yield Case(GROUP, f"{op} is covered", partial(fail, why))
    if subject.opening_error:
        return
    for setting in primitive_settings(subject.manifest):
        yield Case(GROUP, setting.name, partial(_check, setting))
    if subject.replay is not None:
        for setting in replayed(subject.replay, subject.manifest, subject.device.default_dtype):
            if OPS[setting.op].is_primitive:
                yield Case(GROUP, f"{subject.replay.name}: {setting.name}", partial(_check, setting))


def _check(setting: Setting, subject: Subject) -> None:
    check(setting, subject, subject.device)
