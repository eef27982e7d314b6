"""honesty: where a predicate says YES the override runs and is right; where it says No core never calls it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial

import numpy as np

from rtp_core.conformance.case import Case
from rtp_core.conformance.dims import Dims
from rtp_core.conformance.expectation import expect
from rtp_core.conformance.groups.composites import check_override, serves
from rtp_core.conformance.op_check import Setting
from rtp_core.conformance.settings import BY_OP
from rtp_core.conformance.subject import Subject
from rtp_core.device.op import Override, Yes
from rtp_core.device.plan import PHASES, Demand, resolve

GROUP = "honesty"
SETTINGS = 24  # random ones of every override


def cases(subject: Subject) -> Iterator[Case]:
    if subject.opening_error:
        return
    for override in subject.device.overrides:
        for number, setting in enumerate(_settings(override, subject)):
            yield Case(GROUP, f"{override.impl} #{number} {setting.name}", partial(_is_honest, override, setting))


def _settings(override: Override, subject: Subject) -> Iterator[Setting]:
    rng = np.random.default_rng(5)
    ways, manifest = BY_OP.get(override.op, ()), subject.manifest
    for number in range(SETTINGS if ways else 0):
        one = ways[number % len(ways)]
        schemes = one.schemes(manifest.schemes)
        yield Setting(
            one,
            manifest.dtypes[rng.integers(len(manifest.dtypes))],
            rows=max(one.min_rows, int(rng.integers(1, 9))),
            scheme=schemes[rng.integers(len(schemes))],
            features=frozenset(name for name in sorted(one.features) if rng.random() < 0.5),
            dims=Dims.random(rng),
            seed=number,
        )


def _is_honest(override: Override, setting: Setting, subject: Subject) -> None:
    if serves(override, setting):
        check_override(override, setting, subject)
    schemes, features = {setting.op: (setting.scheme,)}, {setting.op: setting.features}
    plan = resolve(subject.device, Demand(setting.dtype, asdict(setting.sized), schemes, features))
    for phase in PHASES:
        is_bound = getattr(plan.ops(phase), setting.op).__func__ is override.function
        refuses = bool(setting.features - override.handles)
        refuses = refuses or (
            override.when is not None and not isinstance(override.when(setting.signature(phase)), Yes)
        )
        expect(not (is_bound and refuses), f"expected {override.impl} to be left out where it says No, got a call")
