"""Calling one op on a device and holding what comes back, and what does not, against the definition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtp_core import dtypes
from rtp_core.conformance.bench import Bench, Layout
from rtp_core.conformance.call import Operands
from rtp_core.conformance.dims import SMALL, Dims
from rtp_core.conformance.expectation import expect
from rtp_core.conformance.subject import Subject
from rtp_core.conformance.tolerance import Tolerance, compare, tolerance
from rtp_core.device import reference_ops
from rtp_core.device.device import OPS, Device
from rtp_core.device.op import Phase, Signature
from rtp_core.dtypes import DType
from rtp_core.memory.buffer import Buffer
from rtp_core.memory.qbuffer import SCHEMES, QBuffer

Array = NDArray[Any]

EXACT_OF_QUANTIZED = frozenset({"gather_rows", "dequantize"})  # codes become numbers, nothing else is rounded
ONE_CODE = Tolerance(1e-3, 0.15)  # a number half-way between two codes may go to either


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to call one op: everything but the device."""

    operands: Operands
    dtype: str
    rows: int = 5
    layout: Layout = "fresh"
    scheme: str = "none"
    features: frozenset[str] = frozenset()
    dims: Dims = SMALL
    seed: int = 7

    @property
    def op(self) -> str:
        return self.operands.op

    @property
    def name(self) -> str:
        """The op, how it is called, and with what, as in `gemm transposed_weight [float32, 5 rows, bias]`."""
        parts = [self.dtype, f"{self.rows} rows", self.layout if self.layout != "fresh" else ""]
        parts += [self.scheme if self.scheme != "none" else "", "+".join(sorted(self.features))]
        return f"{self.op} {self.operands.name} [{', '.join(filter(None, parts))}]"

    @property
    def sized(self) -> Dims:
        """The sizes, as far as a scheme has them."""
        return self.dims if self.scheme == "none" else self.dims.rounded(SCHEMES[self.scheme].unit)

    def signature(self, phase: Phase) -> Signature:
        """What a predicate sees of it."""
        return Signature(self.op, phase, self.dtype, self.scheme, self.features, asdict(self.sized))

    def bench(self, device: Device, subject: Subject, *, is_oracle: bool = False) -> Bench:
        return Bench(
            device,
            dtypes.parse(self.dtype),
            self.rows,
            "fresh" if is_oracle else self.layout,
            self.sized,
            self.scheme,
            self.features,
            block_size=subject.device.kv_layout.block_size,
            kv_order=subject.device.kv_layout.order,
            is_oracle=is_oracle,
            seed=self.seed,
        )

    @property
    def limit(self) -> Tolerance:
        if self.op == "quantize":
            return ONE_CODE
        is_exact = self.scheme == "none" or self.op in EXACT_OF_QUANTIZED
        activation = None if is_exact else SCHEMES[self.scheme].activation
        return tolerance(self.dtype, is_composite=not OPS[self.op].is_primitive, activation=activation)


def check(setting: Setting, subject: Subject, ops: Device, *, beside: Device | None = None) -> None:
    """Call the op on `ops`. Raises CheckFailed where it differs from the reference, or from `beside`'s results."""
    expected = oracle(setting, subject)
    got = results(setting, subject, ops, expected)
    expect(len(got) == len(expected), f"{setting.op}: expected {len(expected)} results, got {len(got)}")
    for number, (x, y) in enumerate(zip(got, expected, strict=True)):
        compare(x, y, setting.limit, f"result {number} of {setting.op} against the reference")
    if beside is not None:
        default = results(setting, subject, beside, expected)
        for number, (x, y) in enumerate(zip(got, default, strict=True)):
            compare(x, y, setting.limit, f"result {number} of {setting.op} against the device's own default")


def oracle(setting: Setting, subject: Subject) -> list[Array]:
    """What the reference makes of the same numbers in float32. The same for every layout."""
    layout = subject.device.kv_layout
    key = replace(setting, layout="fresh"), layout
    if key not in subject.oracles:
        bench = setting.bench(subject.reference, subject, is_oracle=True)
        call = setting.operands.make(bench)
        returned = getattr(subject.reference, setting.op)(*call.args, **call.options)
        subject.oracles[key] = [*map(_numbers(subject.reference), _flat(returned)), *bench.results()]
    known: list[Array] = subject.oracles[key]
    return known


def results(setting: Setting, subject: Subject, ops: Device, expected: list[Array] | None = None) -> list[Array]:
    """What `ops` returns and writes, on the host. Raises CheckFailed where it touched anything else."""
    bench = setting.bench(ops, subject)
    call = setting.operands.make(bench)
    options = dict(call.options)
    wanted = call.result or bench.dtype
    if setting.layout != "fresh" and expected and "out" in OPS[setting.op].signature.parameters:
        options["out"] = bench.out(expected[0].shape, wanted)
    returned = _flat(getattr(ops, setting.op)(*call.args, **options))
    _check_returned(setting.op, returned, options, wanted)
    found = [*map(_numbers(ops), returned)]
    written = bench.results()
    return found + written[:-1] if "out" in options and _is_buffer(options["out"]) else found + written


def _check_returned(op: str, returned: list[Any], options: Mapping[str, Any], wanted: DType) -> None:
    out = options.get("out")
    expect(out is None or (bool(returned) and returned[0] is out), f"{op}: expected `out` back, got {returned[:1]}")
    for value in returned:
        if isinstance(value, Buffer) and not isinstance(value, QBuffer) and value.dtype.is_floating:
            expect(value.dtype is wanted, f"{op}: expected {wanted} results, got {value.dtype}")


def _is_buffer(value: Any) -> bool:
    return isinstance(value, Buffer)


def _flat(returned: Any) -> list[Any]:
    if returned is None:
        return []
    return list(returned) if isinstance(returned, tuple) else [returned]


def _numbers(device: Device) -> Any:
    """The numbers of what an op returned, on the host."""

    def numbers(value: Any) -> Array:
        if isinstance(value, QBuffer):
            expect(value.layout == "plain", f"quantize: expected layout plain, got {value.layout}")
            return reference_ops.dequantize([device.download(part) for part in value.parts], value.scheme)
        return device.download(value) if isinstance(value, Buffer) else np.asarray(value)

    return numbers
