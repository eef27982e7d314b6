"""Which implementation serves an op, and what every other candidate lacks.

Closed world: an override is eligible only if it handles every feature that it would meet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn, Self

from rtp_core.device.device import OPS, Device
from rtp_core.device.manifest import Manifest
from rtp_core.device.op import YES, DeclaredOverride, No, OpSpec, Override, Signature, Yes
from rtp_core.errors import ConfigError, ContractError

Candidate = Override | DeclaredOverride


@dataclass(frozen=True, slots=True)
class Rejection:
    """An implementation that could have served an op, and why it does not."""

    impl: str
    reason: str


@dataclass(frozen=True, slots=True)
class Offer:
    """What there is to choose from: an opened device, or what a manifest says of one that is not there."""

    where: str
    kind: str
    overrides: tuple[Candidate, ...]
    borrowed: frozenset[str] = frozenset()

    @classmethod
    def of_device(cls, device: Device) -> Self:
        return cls(device.info.id, device.kind, device.overrides, device.borrowed)

    @classmethod
    def of_manifest(cls, manifest: Manifest) -> Self:
        """Predicates cannot be asked, and nothing tells which primitives are borrowed."""
        return cls(manifest.kind, manifest.kind, manifest.overrides)

    def candidates(self, op: str) -> list[Candidate]:
        """The overrides of an op, the highest priority first."""
        return sorted((o for o in self.overrides if o.op == op), key=lambda o: (-o.priority, o.impl))


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user has to say: implementations to leave out, and by op those to take first, in order.

    An op's default is an implementation, too: `default.<op>`.
    """

    disabled: frozenset[str] = frozenset()
    preferred: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def check(self, offer: Offer) -> None:
        """Raises ConfigError for an op or an implementation that is not there."""
        known = {override.impl for override in offer.overrides}
        if self.disabled - known:
            raise ConfigError(
                f"no implementation {', '.join(sorted(self.disabled - known))} to disable",
                where=offer.where,
                why=f"it has {', '.join(sorted(known)) or 'no overrides'}",
            )
        for op, wanted in self.preferred.items():
            check_op(op, "prefer")
            if OPS[op].is_primitive:
                raise ConfigError(f"no choice of {op}", where=offer.where, why="a primitive has one implementation")
            there = [*(candidate.impl for candidate in offer.candidates(op)), default_name(op)]
            missing = [impl for impl in wanted if impl not in there]
            if missing:
                raise ConfigError(
                    f"no implementation {', '.join(missing)} of {op} to prefer",
                    where=offer.where,
                    why=f"it has {', '.join(there)}",
                )


@dataclass(frozen=True, slots=True)
class Choice:
    """What serves one op. `override` is None for a primitive and for a default."""

    override: Candidate | None
    is_preferred: bool
    rejected: tuple[Rejection, ...]

    @property
    def is_conditional(self) -> bool:
        """Whether a predicate that could not be asked has the last word."""
        return isinstance(self.override, DeclaredOverride) and self.override.is_conditional


def choose(spec: OpSpec, offer: Offer, wishes: Wishes, signatures: Sequence[Signature]) -> Choice:
    """The first candidate that nothing speaks against: the user's own order, then priorities, then the default.

    Raises ContractError for a predicate that raises, or answers anything but YES or No(reason).
    """
    wanted = wishes.preferred.get(spec.name, ())
    found: tuple[str, Candidate | None] | None = None
    rejected: list[Rejection] = []
    for candidate in _ranked(offer.candidates(spec.name), spec.name, wanted):
        name = default_name(spec.name) if candidate is None else candidate.impl
        if found is not None:
            if candidate is not None:
                rejected.append(Rejection(name, _lost_to(candidate, *found, wanted)))
        elif candidate is not None and (objection := _objection(candidate, signatures, wishes.disabled)):
            rejected.append(Rejection(name, objection))
        else:
            found = name, candidate
    assert found is not None  # nothing speaks against a default
    return Choice(found[1], found[0] in wanted, tuple(rejected))


def default_name(op: str) -> str:
    return f"default.{op}"


def check_op(op: str, verb: str) -> None:
    """Raises ConfigError, naming all ops, unless `op` is one."""
    if op not in OPS:
        raise ConfigError(f"no op {op!r} to {verb}", why=f"ops are {', '.join(OPS)}")


def known_features() -> frozenset[str]:
    """Every feature that some op may meet."""
    return frozenset(feature for spec in OPS.values() for feature in spec.features)


def check_features(features: frozenset[str]) -> None:
    """Raises ConfigError, naming the known ones, for a feature that no op has heard of."""
    known = known_features()
    if features - known:
        raise ConfigError(
            f"unknown feature {', '.join(sorted(features - known))}", why=f"known are {', '.join(sorted(known))}"
        )


def _ranked(candidates: list[Candidate], op: str, wanted: tuple[str, ...]) -> list[Candidate | None]:
    """In the order in which they are asked; None is the default."""
    by_name: dict[str, Candidate | None] = {candidate.impl: candidate for candidate in reversed(candidates)}
    by_name[default_name(op)] = None
    first = [by_name[impl] for impl in dict.fromkeys(wanted)]
    return first + [c for c in (*candidates, None) if c not in first]


def _lost_to(candidate: Candidate, name: str, chosen: Candidate | None, wanted: tuple[str, ...]) -> str:
    is_unsure = isinstance(chosen, DeclaredOverride) and chosen.is_conditional
    doubt = ", if that one's predicate agrees" if is_unsure else ""
    if name in wanted:
        return f"{name} is preferred (--prefer){doubt}"
    return f"priority {candidate.priority} is below {name}{doubt}"


def _objection(candidate: Candidate, signatures: Sequence[Signature], disabled: frozenset[str]) -> str:
    """Why the candidate cannot serve these signatures, or nothing."""
    if candidate.impl in disabled:
        return "disabled by --disable-impl"
    unhandled = sorted(signatures[0].features - candidate.handles)
    if unhandled:
        return f"does not handle {', '.join(unhandled)}"
    if isinstance(candidate, Override) and candidate.when is not None:
        for signature in signatures:
            answer = _ask(candidate, signature)
            if isinstance(answer, No):
                return answer.reason
    return ""


def _ask(override: Override, signature: Signature) -> Yes | No:
    assert override.when is not None
    try:
        answer: object = override.when(signature)
    except Exception as error:
        raise ContractError(
            f"the predicate of {override.impl} failed",
            why=f"{type(error).__name__}: {error}; expected YES or No(reason)",
            hint=f"--disable-impl {override.impl}",
        ) from error
    if isinstance(answer, Yes):
        return YES
    if isinstance(answer, No) and isinstance(answer.reason, str) and answer.reason.strip():
        return answer
    _bad_answer(override, answer)


def _bad_answer(override: Override, answer: object) -> NoReturn:
    raise ContractError(
        f"the predicate of {override.impl} answered {answer!r}",
        why="expected YES or No(reason)",
        hint=f"--disable-impl {override.impl}",
    )
