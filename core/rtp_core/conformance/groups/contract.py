"""contract: the device is what its manifest says, has all primitives, answers as agreed, and leaves core alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from itertools import product

import numpy as np

from rtp_core.conformance.case import Case
from rtp_core.conformance.core_snapshot import changes, core_snapshot
from rtp_core.conformance.dims import Dims
from rtp_core.conformance.expectation import expect
from rtp_core.conformance.subject import Subject
from rtp_core.device.device import OPS, PRIMITIVES
from rtp_core.device.loader import load_plugins
from rtp_core.device.manifest import PLUGIN_API
from rtp_core.device.op import No, Override, Signature, Yes
from rtp_core.device.plan import PHASES
from rtp_core.memory.qbuffer import SCHEMES

GROUP = "contract"
MOST_REQUESTS = 1024  # of a decode step
SIGNATURES = 64  # random ones, of which every predicate is asked about each, twice
ORDERS = ("KBD", "BKD")


def cases(subject: Subject) -> Iterator[Case]:
    yield Case(GROUP, "core is the same after opening it", _core_is_untouched)
    yield Case(GROUP, "its class declares what its manifest says", _manifest_is_true)
    yield Case(GROUP, "its manifest names kinds, dtypes, schemes and layouts that exist", _names_exist)
    for op in PRIMITIVES:
        yield Case(GROUP, f"it has the primitive {op}", partial(_has_primitive, op))
    yield Case(GROUP, "its recorded decode steps have room for the requests, in a rehearsal, too", _sizes_have_room)
    if subject.plugin is not None:
        yield Case(GROUP, "core is the same after loading it", _loading_leaves_core_alone)
        yield Case(GROUP, "it is found AVAILABLE", _is_available)
    for override in _overrides(subject):
        if override.when is not None:
            yield Case(GROUP, f"{override.impl} answers YES or No(reason), twice the same", partial(_answers, override))


def _overrides(subject: Subject) -> tuple[Override, ...]:
    """Those of the device; none where it cannot be opened, which is a case of its own."""
    return () if subject.opening_error else subject.device.overrides


def _core_is_untouched(subject: Subject) -> None:
    subject.device.synchronize()  # it is open now
    changed = changes(subject.core_before, core_snapshot())
    expect(not changed, f"expected core to stay as it is, got other code in {', '.join(changed[:5])}")


def _loading_leaves_core_alone(subject: Subject) -> None:
    changed = subject.observation.changed
    expect(not changed, f"expected core to stay as it is, got other code in {', '.join(changed[:5])}")


def _manifest_is_true(subject: Subject) -> None:
    declared = set(map(repr, subject.manifest.overrides))
    actual = {repr(override.declared) for override in subject.device.overrides}
    if subject.manifest.is_of_older_major:  # such a manifest names its implementations and no more
        declared = {override.impl for override in subject.manifest.overrides}
        actual = {override.impl for override in subject.device.overrides}
    expect(
        declared == actual,
        f"expected the manifest's overrides to be the class's; only declared: {sorted(declared - actual)}, "
        f"only there: {sorted(actual - declared)}",
    )
    expect(subject.device.kind == subject.manifest.kind, f"expected kind {subject.manifest.kind}, got another")


def _names_exist(subject: Subject) -> None:
    manifest = subject.manifest
    floats = {"float32", "float16", "bfloat16"}
    features = {feature for spec in OPS.values() for feature in spec.features}
    known = {"dtypes": floats, "schemes": set(SCHEMES), "kv_layouts": set(ORDERS), "features": features}
    for field, names in known.items():
        extra = set(getattr(manifest, field)) - names
        expect(not extra, f"expected {field} among {sorted(names)}, got {sorted(extra)}")
    expect("float32" in manifest.dtypes, f"expected float32 among the dtypes, got {manifest.dtypes}")
    order = subject.device.kv_layout.order
    expect(order in manifest.kv_layouts, f"expected its own KV order among {manifest.kv_layouts}, got {order}")
    expect(manifest.api[0] in (PLUGIN_API[0], PLUGIN_API[0] - 1), f"expected API {PLUGIN_API}, got {manifest.api}")


def _has_primitive(op: str, subject: Subject) -> None:
    member = getattr(subject.device, op, None)
    expect(callable(member), f"expected a method {op}, got {member!r}")
    expect(not getattr(member, "__isabstractmethod__", False), f"expected an implementation of {op}, got none")


def _sizes_have_room(subject: Subject) -> None:
    device, twin = subject.device, subject.device.rehearsal()
    try:
        for count in range(1, MOST_REQUESTS + 1):
            size = device.capture_size(count)
            expect(size >= count, f"expected {count} or more from capture_size({count}), got {size}")
            told = size if twin is None else twin.capture_size(count)
            expect(told == size, f"expected capture_size({count}) to be {size} in the rehearsal, got {told}")
    finally:
        if twin is not None:
            twin.close()


def _is_available(subject: Subject) -> None:
    assert subject.plugin is not None
    again = load_plugins(subject.plugin.name)
    states = [(plugin.state, plugin.manifest == subject.manifest) for plugin in again]
    expect(states == [("AVAILABLE", True)], f"expected one AVAILABLE plugin with the same manifest, got {states}")


def _answers(override: Override, subject: Subject) -> None:
    assert override.when is not None
    for signature in signatures(override.op, subject):
        first, second = override.when(signature), override.when(signature)
        for answer in (first, second):
            is_answer = isinstance(answer, Yes) or (isinstance(answer, No) and bool(answer.reason.strip()))
            expect(is_answer, f"expected YES or No(reason) from {override.impl}, got {answer!r} for {signature}")
        expect(first == second, f"expected the same answer twice from {override.impl}, got {first!r} and {second!r}")


def signatures(op: str, subject: Subject) -> Iterator[Signature]:
    """Random ones that a model may have, in every dtype and scheme of the manifest."""
    rng = np.random.default_rng(3)
    choices = list(product(PHASES, subject.manifest.dtypes, ("none", *subject.manifest.schemes)))
    names = sorted(OPS[op].features)
    for number in range(max(SIGNATURES, len(choices))):
        phase, dtype, scheme = choices[number % len(choices)]
        features = frozenset(name for name in names if rng.random() < 0.5)
        yield Signature(op, phase, dtype, scheme, features, asdict(Dims.random(rng)))
