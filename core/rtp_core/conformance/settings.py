"""Which settings of every op the suite tries: from the registry of ops, and what a manifest lists.

What a vendor has written, a primitive or an override, is tried in each dtype with each number of rows and each set of
features, and in each dtype with each scheme. A default is core's, and made of primitives that were tried so: it meets
each of those, but not each with each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import cycle, islice, product
from typing import Any

from rtp_core.conformance.bench import LAYOUTS, Layout
from rtp_core.conformance.call import Operands
from rtp_core.conformance.composite_operands import COMPOSITE_OPERANDS
from rtp_core.conformance.expectation import CheckFailed
from rtp_core.conformance.op_check import Setting
from rtp_core.conformance.primitive_operands import PRIMITIVE_OPERANDS
from rtp_core.conformance.replay import Replay
from rtp_core.device.device import OPS
from rtp_core.device.manifest import Manifest

ROWS = (0, 1, 5)
COMPOSITE_LAYOUT: Layout = "strided"
BY_OP: Mapping[str, tuple[Operands, ...]] = {
    op: tuple(one for one in (*PRIMITIVE_OPERANDS, *COMPOSITE_OPERANDS) if one.op == op)
    for op in dict.fromkeys(one.op for one in (*PRIMITIVE_OPERANDS, *COMPOSITE_OPERANDS))
}


def uncovered() -> Iterator[tuple[str, str]]:
    """(op, why) of every op, and every feature of one, that the suite knows no operands for."""
    for op, spec in OPS.items():
        known = BY_OP.get(op, ())
        if not known:
            yield op, f"expected operands for the op {op}, got none: add them to the suite"
            continue
        missing = spec.features - frozenset().union(*(one.features for one in known))
        if missing and not spec.is_primitive:
            yield op, f"expected operands of {op} with {', '.join(sorted(missing))}, got none: add them to the suite"


def fail(why: str, subject: object) -> None:
    """A case that nothing can pass: the suite itself lacks something."""
    raise CheckFailed(why)


def primitive_settings(manifest: Manifest) -> Iterator[Setting]:
    """Every primitive x dtype x rows x layout, and with quantized weights in every scheme."""
    for op, spec in OPS.items():
        for one in BY_OP.get(op, ()) if spec.is_primitive else ():
            yield from _float_settings(one, manifest, one.feature_sets(), LAYOUTS)
            yield from _quantized_settings(one, manifest, one.feature_sets())


def override_settings(op: str, manifest: Manifest) -> Iterator[Setting]:
    """Every dtype x rows x set of features, and with quantized weights in every scheme."""
    for one in BY_OP.get(op, ()):
        yield from _float_settings(one, manifest, one.feature_sets(), (COMPOSITE_LAYOUT,))
        yield from _quantized_settings(one, manifest, one.feature_sets())


def default_settings(op: str, manifest: Manifest) -> Iterator[Setting]:
    """Every dtype x rows, every set of features and every scheme, but not each with each."""
    for one in BY_OP.get(op, ()):
        sets, rows = one.feature_sets(), [number for number in ROWS if number >= one.min_rows]
        for (dtype, number), chosen in _in_step(product(manifest.dtypes, rows), sets):
            yield Setting(one, dtype, number, COMPOSITE_LAYOUT, features=chosen)
        for scheme, dtype, chosen in _in_step(one.quantized(manifest.schemes), manifest.dtypes, _ends(sets)):
            yield Setting(one, dtype, scheme=scheme, features=chosen)


def replayed(replay: Replay, manifest: Manifest, dtype: str) -> Iterator[Setting]:
    """The ops of a real model in its own sizes."""
    for op, schemes in replay.schemes.items():
        for one in BY_OP.get(op, ()):
            features = replay.features.get(op, frozenset()) & one.features
            for scheme in sorted(schemes & set(one.schemes(manifest.schemes))):
                yield Setting(one, dtype, scheme=scheme, features=features, dims=replay.dims)


def _float_settings(
    one: Operands, manifest: Manifest, features: list[frozenset[str]], layouts: tuple[Layout, ...]
) -> Iterator[Setting]:
    if one.weights == "quantized":
        return
    for dtype, rows, layout, chosen in product(manifest.dtypes, ROWS, layouts, features):
        if rows >= one.min_rows:
            yield Setting(one, dtype, rows, layout, features=chosen)


def _quantized_settings(one: Operands, manifest: Manifest, features: list[frozenset[str]]) -> Iterator[Setting]:
    for scheme, dtype, chosen in product(one.quantized(manifest.schemes), manifest.dtypes, _ends(features)):
        yield Setting(one, dtype, scheme=scheme, features=chosen)


def _ends(features: list[frozenset[str]]) -> list[frozenset[str]]:
    """Nothing, and all at once."""
    return list(dict.fromkeys((features[0], features[-1])))


def _in_step(*lists: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
    """As many as the longest list has: the shorter ones begin anew. None where one is empty."""
    known = [list(values) for values in lists]
    length = max(map(len, known)) if all(known) else 0
    return zip(*(islice(cycle(values), length) for values in known), strict=True)
