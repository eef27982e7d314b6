"""The plan: which implementation serves each op of one model on one device. Resolved once, then frozen.

Closed world: an override is eligible only if it handles every feature that the model puts on its op.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

from rtp_core.device.device import OPS, Device
from rtp_core.device.op import YES, No, OpSpec, Override, Phase, Signature, Yes
from rtp_core.errors import ConfigError, ContractError

Source = Literal["primitive", "default", "override", "borrowed"]
PHASES: tuple[Phase, ...] = get_args(Phase)


@dataclass(frozen=True, slots=True)
class Demand:
    """What a model asks of the ladder: static, and known without its weights' contents.

    `schemes` and `features` are by op; an op that is not named meets plain floats and no feature.
    """

    dtype: str
    dims: Mapping[str, int] = field(default_factory=dict)
    schemes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    features: Mapping[str, frozenset[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rejection:
    """An implementation that could have served an op, and why it does not."""

    impl: str
    reason: str


@dataclass(frozen=True, slots=True)
class PlanRow:
    """One op in one phase ("any": the same in both)."""

    op: str
    level: int
    phase: str
    dtype: str
    scheme: str
    features: tuple[str, ...]
    impl: str
    source: Source
    rejected: tuple[Rejection, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """`ops(phase)` is the device with every op bound to its choice: a call through it is a plain method call."""

    rows: tuple[PlanRow, ...]
    _tables: Mapping[Phase, Device]

    def ops(self, phase: Phase) -> Device:
        return self._tables[phase]

    @property
    def hash(self) -> str:
        """Sixteen hex digits over all rows: equal plans, equal hashes."""
        return hashlib.sha256(json.dumps(self.as_json(), sort_keys=True).encode()).hexdigest()[:16]

    def as_json(self) -> list[dict[str, Any]]:
        return [asdict(row) for row in self.rows]


def resolve(device: Device, demand: Demand, *, disabled: frozenset[str] = frozenset()) -> Plan:
    """Choose, for every op and phase, the first eligible override by priority, else the default.

    `disabled` names overrides to leave out. Raises ConfigError for one that the device does not have,
    ContractError for a predicate that answers anything but YES or No(reason).
    """
    known = {override.impl for override in device.overrides}
    if disabled - known:
        raise ConfigError(
            f"no implementation {', '.join(sorted(disabled - known))} to disable",
            where=device.info.id,
            why=f"it has {', '.join(sorted(known)) or 'no overrides'}",
        )
    rows: list[PlanRow] = []
    tables: dict[Phase, Device] = {}
    for phase in PHASES:
        chosen: dict[str, Override] = {}
        for spec in OPS.values():
            override, row = _choose(device, spec, phase, demand, disabled)
            rows.append(row)
            if override is not None:
                chosen[spec.name] = override
        tables[phase] = device.bound({op: override.function for op, override in chosen.items()})
    return Plan(_merged(rows), tables)


def _choose(
    device: Device, spec: OpSpec, phase: Phase, demand: Demand, disabled: frozenset[str]
) -> tuple[Override | None, PlanRow]:
    features = demand.features.get(spec.name, frozenset()) & spec.features
    schemes = demand.schemes.get(spec.name, ("none",))
    signatures = [Signature(spec.name, phase, demand.dtype, scheme, features, demand.dims) for scheme in schemes]
    chosen: Override | None = None
    rejected: list[Rejection] = []
    for override in device.overrides:
        if override.op != spec.name:
            continue
        reason = (
            f"priority {override.priority} is below {chosen.impl}"
            if chosen
            else _objection(override, signatures, disabled)
        )
        if reason:
            rejected.append(Rejection(override.impl, reason))
        else:
            chosen = override
    impl, source = _source(device, spec, chosen)
    row = PlanRow(
        spec.name,
        spec.level,
        phase,
        demand.dtype,
        "+".join(schemes),
        tuple(sorted(features)),
        impl,
        source,
        tuple(rejected),
    )
    return chosen, row


def _source(device: Device, spec: OpSpec, chosen: Override | None) -> tuple[str, Source]:
    if chosen is not None:
        return chosen.impl, "override"
    if spec.is_primitive:
        return f"{device.kind}.{spec.name}", "primitive"
    return f"default.{spec.name}", "default"


def _objection(override: Override, signatures: list[Signature], disabled: frozenset[str]) -> str:
    """Why the override cannot serve these signatures, or nothing."""
    if override.impl in disabled:
        return "disabled by --disable-impl"
    unhandled = sorted(signatures[0].features - override.handles)
    if unhandled:
        return f"does not handle {', '.join(unhandled)}"
    for signature in signatures:
        answer = override.when(signature) if override.when else YES
        if isinstance(answer, No):
            return answer.reason
        if not isinstance(answer, Yes):
            raise ContractError(
                f"the predicate of {override.impl} answered {answer!r}", why="expected YES or No(reason)"
            )
    return ""


def _merged(rows: list[PlanRow]) -> tuple[PlanRow, ...]:
    """One row with phase "any" for each op whose phases agree."""
    by_op: dict[str, list[PlanRow]] = {}
    for row in rows:
        by_op.setdefault(row.op, []).append(row)
    merged: list[PlanRow] = []
    for group in by_op.values():
        first = group[0]
        agree = all((r.impl, r.rejected) == (first.impl, first.rejected) for r in group)
        merged += [replace(first, phase="any")] if agree else group
    return tuple(merged)
