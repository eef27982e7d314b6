"""composites: every default on this device, and every override against its own default and the reference."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from rtp_core.conformance.case import Case
from rtp_core.conformance.op_check import Setting, check
from rtp_core.conformance.replay import Replay
from rtp_core.conformance.settings import default_settings, fail, override_settings, replayed, uncovered
from rtp_core.conformance.subject import Subject
from rtp_core.device.device import OPS
from rtp_core.device.op import Override, Predicate, Signature, Yes
from rtp_core.device.plan import PHASES

GROUP = "composites"


def cases(subject: Subject) -> Iterator[Case]:
    for op, why in uncovered():
        if not OPS[op].is_primitive:
            yield Case(GROUP, f"{op} is covered", partial(fail, why))
    if subject.opening_error:
        return
    for op in (op for op, spec in OPS.items() if not spec.is_primitive):
        yield from _cases_of(op, subject)
    if subject.replay is not None:
        yield from _replayed_cases(subject.replay, subject)


def _cases_of(op: str, subject: Subject) -> Iterator[Case]:
    for setting in default_settings(op, subject.manifest):
        yield _default_case(setting, setting.name)
    for override in subject.device.overrides:
        if override.op == op:
            for setting in override_settings(op, subject.manifest):
                yield from _override_case(override, setting, setting.name)


def _replayed_cases(replay: Replay, subject: Subject) -> Iterator[Case]:
    for setting in replayed(replay, subject.manifest, subject.device.default_dtype):
        if not OPS[setting.op].is_primitive:
            name = f"{replay.name}: {setting.name}"
            yield _default_case(setting, name)
            for override in subject.device.overrides:
                yield from _override_case(override, setting, name)


def _default_case(setting: Setting, name: str) -> Case:
    return Case(GROUP, f"default {name}", partial(_check_default, setting))


def _override_case(override: Override, setting: Setting, name: str) -> Iterator[Case]:
    """The override where core would use it."""
    if serves(override, setting):
        yield Case(GROUP, f"{override.impl} {name}", partial(check_override, override, setting))


def serves(override: Override, setting: Setting) -> bool:
    """Whether core would use the override there, in some phase."""
    if override.op != setting.op or setting.features - override.handles:
        return False
    return override.when is None or any(_says_yes(override.when, setting.signature(phase)) for phase in PHASES)


def _says_yes(when: Predicate, signature: Signature) -> bool:
    try:
        return isinstance(when(signature), Yes)
    except Exception:  # a case of the group `contract` tells it: here it is no consent
        return False


def check_override(override: Override, setting: Setting, subject: Subject) -> None:
    """Raises CheckFailed where an override differs from the default that it stands for, or from the reference."""
    check(setting, subject, subject.device.bound({override.op: override.function}), beside=subject.device)


def _check_default(setting: Setting, subject: Subject) -> None:
    check(setting, subject, subject.device)
