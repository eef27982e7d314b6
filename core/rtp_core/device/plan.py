"""The plan: which implementation serves each op of one model on one device. Resolved once, then frozen.

Features of the model are static. Those of requests are dynamic: for every set of them there is a table of its
own, and a step takes the one for what its requests have among them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from typing import Any, Literal, get_args

from rtp_core.device.call_graph import Graph, call_graph, reachable
from rtp_core.device.choice import Choice, Offer, Rejection, Wishes, check_features, choose, default_name
from rtp_core.device.device import OPS, Device
from rtp_core.device.op import OpSpec, Override, Phase, Signature
from rtp_core.errors import ConfigError

Source = Literal["primitive", "default", "override", "borrowed"]
PHASES: tuple[Phase, ...] = get_args(Phase)
ANY = "any"
NO_FEATURES: frozenset[str] = frozenset()
MAX_DYNAMIC = 6  # features of requests: each one more doubles the tables


@dataclass(frozen=True, slots=True)
class Demand:
    """What a model asks of the ladder: static, and known without its weights' contents.

    `schemes` and `features` are by op; an op that is not named meets plain floats and no feature.
    `assembly` is what the model calls the ladder with, the default of model_forward.
    """

    dtype: str
    dims: Mapping[str, int] = field(default_factory=dict)
    schemes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    features: Mapping[str, frozenset[str]] = field(default_factory=dict)
    assembly: Callable[..., Any] | None = None


@dataclass(frozen=True, slots=True)
class PlanRow:
    """One op in one phase ("any": the same in both).

    `conditional`: a predicate that could not be asked has the last word. `preferred`: chosen by the user.
    `shadowed_by`: chosen overrides of higher ops, inside which this implementation is not called.
    """

    op: str
    level: int
    phase: str
    dtype: str
    scheme: str
    features: tuple[str, ...]
    impl: str
    source: Source
    rejected: tuple[Rejection, ...]
    conditional: bool = False
    preferred: bool = False
    shadowed_by: tuple[str, ...] = ()


Rows = tuple[PlanRow, ...]
Decision = Mapping[str, Any]
Situation = tuple[Phase, frozenset[str]]
Chosen = Mapping[Situation, tuple[Override, ...]]


@dataclass(frozen=True, slots=True)
class Plan:
    """`ops(phase, features)` is the device with every op bound to its choice: a call through it is a method call.

    `sheets` has the rows for each set of dynamic features; `rows` are those without any. `serving`: all
    overrides that serve anything.
    """

    where: str
    demand: Demand
    sheets: Mapping[frozenset[str], Rows]
    serving: tuple[Override, ...]
    _chosen: Chosen
    _tables: Mapping[Situation, Device]

    def ops(self, phase: Phase, features: frozenset[str] = NO_FEATURES) -> Device:
        """Raises KeyError for features that the plan was not resolved for."""
        return self._tables[phase, features]

    def on(self, twin: Device) -> Plan:
        """The same choices on another device, which declares the same overrides."""
        return replace(self, where=twin.info.id, _tables=_bound(twin, self._chosen))

    @property
    def rows(self) -> Rows:
        return self.sheets[NO_FEATURES]

    @property
    def dynamic(self) -> frozenset[str]:
        """The features that requests may have."""
        return frozenset().union(*self.sheets)

    @property
    def hash(self) -> str:
        """Of what is served without any dynamic feature: equal plans, equal hashes."""
        return plan_hash(self.rows)

    def as_json(self) -> list[dict[str, Any]]:
        return as_json(self.rows)


def resolve(
    device: Device,
    demand: Demand,
    *,
    disabled: frozenset[str] = frozenset(),
    preferred: Mapping[str, tuple[str, ...]] | None = None,
    dynamic: frozenset[str] = NO_FEATURES,
) -> Plan:
    """Choose for every op, in both phases and under every set of `dynamic` features, and bind the device to it.

    `disabled` names overrides to leave out, `preferred` those of an op to take first. Raises ConfigError for a
    name that is not there, ContractError for a predicate that answers anything but YES or No(reason).
    """
    if len(dynamic) > MAX_DYNAMIC:
        raise ConfigError(f"{len(dynamic)} features of requests", why=f"expected at most {MAX_DYNAMIC}")
    chooser = Chooser(Offer.of_device(device), demand, Wishes(disabled, preferred or {}), dynamic)
    sheets: dict[frozenset[str], Rows] = {}
    chosen: dict[Situation, tuple[Override, ...]] = {}
    for features in _subsets(dynamic):
        by_phase = {phase: chooser.choices(phase, features) for phase in PHASES}
        sheets[features] = chooser.rows(by_phase, features)
        for phase, choices in by_phase.items():
            chosen[phase, features] = tuple(c.override for c in choices.values() if isinstance(c.override, Override))
    serving = tuple(dict.fromkeys(override for overrides in chosen.values() for override in overrides))
    return Plan(device.info.id, demand, sheets, serving, chosen, _bound(device, chosen))


def _bound(device: Device, chosen: Chosen) -> dict[Situation, Device]:
    """One twin for all situations in which the same overrides serve."""
    twins = {overrides: device.bound({o.op: o.function for o in overrides}) for overrides in set(chosen.values())}
    return {situation: twins[overrides] for situation, overrides in chosen.items()}


def explained_rows(offer: Offer, demand: Demand, wishes: Wishes, features: frozenset[str] = NO_FEATURES) -> Rows:
    """The rows of a plan under one set of dynamic features, without a device to bind. Raises as `resolve` does."""
    chooser = Chooser(offer, demand, wishes, features)
    return chooser.rows({phase: chooser.choices(phase, features) for phase in PHASES}, features)


class Chooser:
    """The choices for one demand. Raises ConfigError for wishes and features that make no sense."""

    def __init__(self, offer: Offer, demand: Demand, wishes: Wishes, dynamic: frozenset[str]) -> None:
        wishes.check(offer)
        check_features(dynamic)
        self._offer, self._demand, self._wishes = offer, demand, wishes
        self._below: Graph = reachable(call_graph(demand.assembly))

    def choices(self, phase: Phase, dynamic: frozenset[str]) -> dict[str, Choice]:
        """By op, what serves it."""
        return {op: self._choose(spec, phase, dynamic) for op, spec in OPS.items()}

    def rows(self, by_phase: Mapping[Phase, Mapping[str, Choice]], dynamic: frozenset[str]) -> Rows:
        """One row with phase "any" for each op whose phases agree."""
        shadows = {phase: self._shadows(choices) for phase, choices in by_phase.items()}
        rows: list[PlanRow] = []
        for op, spec in OPS.items():
            group = [
                self._row(spec, phase, choices[op], self._features(spec, dynamic), shadows[phase].get(op, ()))
                for phase, choices in by_phase.items()
            ]
            agree = all(replace(row, phase=ANY) == replace(group[0], phase=ANY) for row in group)
            rows += [replace(group[0], phase=ANY)] if agree else group
        return tuple(rows)

    def _choose(self, spec: OpSpec, phase: Phase, dynamic: frozenset[str]) -> Choice:
        if spec.is_primitive:
            return Choice(None, False, ())
        features, demand = self._features(spec, dynamic), self._demand
        signatures = [
            Signature(spec.name, phase, demand.dtype, scheme, features, demand.dims) for scheme in self._schemes(spec)
        ]
        return choose(spec, self._offer, self._wishes, signatures)

    def _features(self, spec: OpSpec, dynamic: frozenset[str]) -> frozenset[str]:
        """What the op meets. A request's feature of a lower op is one of every op whose default calls that."""
        static = self._demand.features.get(spec.name, NO_FEATURES) & spec.features
        if not dynamic:
            return static
        reached = (OPS[op].features for op in self._below.get(spec.name, ()))
        return static | (dynamic & spec.features.union(*reached))

    def _schemes(self, spec: OpSpec) -> tuple[str, ...]:
        return self._demand.schemes.get(spec.name, ("none",))

    def _shadows(self, choices: Mapping[str, Choice]) -> dict[str, tuple[str, ...]]:
        """By op, the overrides that take the place of the defaults that would have called it; the highest first."""
        shadows: dict[str, tuple[str, ...]] = {}
        for op in reversed(OPS):
            override = choices[op].override
            for lower in self._below.get(op, ()) if override is not None else ():
                assert override is not None
                shadows[lower] = (*shadows.get(lower, ()), override.impl)
        return shadows

    def _row(
        self, spec: OpSpec, phase: Phase, choice: Choice, features: frozenset[str], shadowed_by: tuple[str, ...]
    ) -> PlanRow:
        impl, source = self._source(spec, choice)
        return PlanRow(
            op=spec.name,
            level=spec.level,
            phase=phase,
            dtype=self._demand.dtype,
            scheme="+".join(self._schemes(spec)),
            features=tuple(sorted(features)),
            impl=impl,
            source=source,
            rejected=choice.rejected,
            conditional=choice.is_conditional,
            preferred=choice.is_preferred,
            shadowed_by=shadowed_by,
        )

    def _source(self, spec: OpSpec, choice: Choice) -> tuple[str, Source]:
        if choice.override is not None:
            return choice.override.impl, "override"
        if spec.is_primitive:
            return f"{self._offer.kind}.{spec.name}", "borrowed" if spec.name in self._offer.borrowed else "primitive"
        return default_name(spec.name), "default"


def as_json(rows: Iterable[PlanRow]) -> list[dict[str, Any]]:
    return [asdict(row) for row in rows]


def decisions(rows: Iterable[PlanRow]) -> dict[tuple[str, str], Decision]:
    """By (op, phase), what is served: all of a plan that matters, without the reasons."""
    found: dict[tuple[str, str], Decision] = {}
    for row in rows:
        decision = {
            "impl": row.impl,
            "source": row.source,
            "dtype": row.dtype,
            "scheme": row.scheme,
            "features": ", ".join(row.features),
        }
        found |= {(row.op, phase): decision for phase in (PHASES if row.phase == ANY else (row.phase,))}
    return found


def plan_hash(rows: Iterable[PlanRow]) -> str:
    """Sixteen hex digits over what is served. A reason in other words does not change it."""
    served = sorted([op, phase, dict(decision)] for (op, phase), decision in decisions(rows).items())
    return hashlib.sha256(json.dumps(served, sort_keys=True).encode()).hexdigest()[:16]


def _subsets(features: frozenset[str]) -> list[frozenset[str]]:
    """All of them, the empty one first."""
    names = sorted(features)
    return [frozenset(some) for n in range(len(names) + 1) for some in combinations(names, n)]
