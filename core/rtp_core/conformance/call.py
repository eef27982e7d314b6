"""A call of an op with operands of its own, and the declaration that makes such calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain, combinations
from typing import Any, Literal

from rtp_core.conformance.bench import Bench
from rtp_core.dtypes import DType

Weights = Literal["float", "any", "quantized"]


@dataclass(frozen=True, slots=True)
class Call:
    """Arguments of one op. `result` is the dtype of float results, None for the operands' own."""

    args: tuple[Any, ...]
    options: Mapping[str, Any]
    result: DType | None = None


def call(*args: Any, result: DType | None = None, **options: Any) -> Call:
    return Call(args, options, result)


@dataclass(frozen=True, slots=True)
class Operands:
    """One way to call an op: `make(bench)` gives the arguments.

    `features`: those that it can switch on. `weights`: whether its weights may, or must, be in the bench's scheme.
    `min_rows`: of the numbers of rows it is tried with, those from here up.
    """

    op: str
    name: str
    make: Callable[[Bench], Call]
    features: frozenset[str] = frozenset()
    weights: Weights = "float"
    min_rows: int = 0

    def feature_sets(self) -> list[frozenset[str]]:
        """Every combination of the features, from none to all."""
        names = sorted(self.features)
        return [frozenset(s) for s in chain.from_iterable(combinations(names, n) for n in range(len(names) + 1))]

    def quantized(self, listed: Iterable[str]) -> list[str]:
        """The schemes to try its weights in, of those that a manifest lists."""
        return [] if self.weights == "float" else sorted(listed)

    def schemes(self, listed: Iterable[str]) -> list[str]:
        """The same and, where its weights may have none, "none"."""
        return [*([] if self.weights == "quantized" else ["none"]), *self.quantized(listed)]


def operands(
    *ops: str, features: Iterable[str] = (), weights: Weights = "float", min_rows: int = 0
) -> Callable[[Callable[[Bench], Call]], tuple[Operands, ...]]:
    """Declare the decorated function as one way to call each of `ops`."""

    def declare(make: Callable[[Bench], Call]) -> tuple[Operands, ...]:
        return tuple(Operands(op, make.__name__, make, frozenset(features), weights, min_rows) for op in ops)

    return declare


def for_each(op: str, values: Iterable[Any], make: Callable[[Any, Bench], Call]) -> tuple[Operands, ...]:
    """One way to call `op` for each of the values, which name it."""
    return tuple(Operands(op, str(value), partial(make, value)) for value in values)


def declared(module: Mapping[str, Any]) -> tuple[Operands, ...]:
    """All that a module's globals declare, in order."""
    groups = [value for value in module.values() if isinstance(value, tuple)]
    return tuple(one for group in groups for one in group if isinstance(one, Operands))
