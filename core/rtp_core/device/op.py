"""The vocabulary of the ladder: what an op is, what an override declares, how a predicate answers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

Phase = Literal["prefill", "decode"]
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class No:
    """A refusal, which always has a reason."""

    reason: str

    def __bool__(self) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class Yes:
    """Consent. Use the constant `YES`."""


YES = Yes()


@dataclass(frozen=True, slots=True)
class Signature:
    """All that a predicate may look at: metadata of one op in one model, never data, never a number of rows.

    `scheme` is the quantization scheme of the op's weights, "none" for floats. `dims` are static sizes
    under Hugging Face's names ("hidden_size", "head_dim", ...).
    """

    op: str
    phase: Phase
    dtype: str
    scheme: str = "none"
    features: frozenset[str] = frozenset()
    dims: Mapping[str, int] = field(default_factory=dict)


Predicate = Callable[[Signature], Yes | No]


@dataclass(frozen=True, slots=True)
class OpSpec:
    """One op of the ladder. Primitives are level 0 and have no default.

    `options` maps each feature-tagged parameter to its feature; `features` also holds features that
    travel inside the operands (a bias in a weight). `since` is the plugin API that introduced the op.
    """

    name: str
    level: int
    signature: inspect.Signature
    options: Mapping[str, str]
    features: frozenset[str]
    since: tuple[int, int]

    @property
    def is_primitive(self) -> bool:
        return self.level == 0

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters after self, in order."""
        return tuple(self.signature.parameters)[1:]


@dataclass(frozen=True, slots=True)
class DeclaredOverride:
    """What a manifest says of an override: all but its code. `is_conditional`: a predicate has a say, too."""

    op: str
    impl: str
    priority: int = 100
    handles: frozenset[str] = frozenset()
    is_conditional: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "handles", frozenset(self.handles))


@dataclass(frozen=True, slots=True)
class Override:
    """A vendor's own implementation of a composite, as declared with `@overrides`."""

    op: str
    impl: str
    priority: int
    handles: frozenset[str]
    when: Predicate | None
    function: Callable[..., Any]

    @property
    def declared(self) -> DeclaredOverride:
        return DeclaredOverride(self.op, self.impl, self.priority, self.handles, self.when is not None)


def primitive(function: F) -> F:
    """Declare an op that every device implements."""
    return composite(0)(function)


def composite(
    level: int,
    *,
    options: Mapping[str, str] | None = None,
    features: frozenset[str] = frozenset(),
    since: tuple[int, int] = (1, 0),
) -> Callable[[F], F]:
    """Declare an op of the ladder; the decorated body is its default, made of lower ops on `self`."""

    def declare(function: F) -> F:
        tagged = dict(options or {})
        spec = OpSpec(
            function.__name__,
            level,
            inspect.signature(function),
            tagged,
            features | frozenset(tagged.values()),
            since,
        )
        function.__rtp_op__ = spec  # type: ignore[attr-defined]
        return function

    return declare


def overrides(
    op: str,
    *,
    impl: str,
    priority: int = 100,
    handles: frozenset[str] | set[str] = frozenset(),
    when: Predicate | None = None,
) -> Callable[[F], F]:
    """Declare a method as this device's implementation `impl` of the composite `op`.

    `handles` lists the features it implements; parameters of other features may be left out of its
    signature. `when(signature)` returns YES or No(reason). The higher `priority` is asked first.
    """

    def declare(function: F) -> F:
        function.__rtp_override__ = Override(op, impl, priority, frozenset(handles), when, function)  # type: ignore[attr-defined]
        return function

    return declare
