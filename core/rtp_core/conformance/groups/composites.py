"""composites: every default on this device, and every override against its own default and the reference."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from rtp_core.conformance.case import Case
from rtp_core.conformance.op_check import Setting, check
from rtp_core.conformance.settings import composite_settings, fail, replayed, uncovered
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
    composites = [op for op, spec in OPS.items() if not spec.is_primitive]
    settings = [setting for op in composites for setting in composite_settings(op, subject.manifest)]
    names = {setting: setting.name for setting in settings}
    if subject.replay is not None:
        again = replayed(subject.replay, subject.manifest, subject.device.default_dtype)
        names |= {s: f"{subject.replay.name}: {s.name}" for s in again if not OPS[s.op].is_primitive}
    for setting, name in names.items():
        yield Case(GROUP, f"default {name}", partial(_check_default, setting))
        for override in subject.device.overrides:
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
