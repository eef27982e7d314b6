"""determinism: the same call gives the same bits, and a row gives the same numbers in any company."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from rtp_core.conformance.case import Case
from rtp_core.conformance.expectation import expect
from rtp_core.conformance.groups.composites import serves
from rtp_core.conformance.op_check import Setting, results
from rtp_core.conformance.settings import BY_OP
from rtp_core.conformance.subject import Subject
from rtp_core.conformance.tolerance import compare
from rtp_core.device.device import OPS, Device

GROUP = "determinism"
ROUNDS = 4  # calls that must agree
ROWS = 33  # more than a tile or a thread's share, on most devices

# Ops whose first operand has a row for each token, and whose rows have nothing to do with each other.
BY_ROW = ("gemm", "rms_norm", "layer_norm", "activation", "gated_activation", "linear", "ffn_layer", "lm_head")


def cases(subject: Subject) -> Iterator[Case]:
    if subject.opening_error:
        return
    for op in OPS:
        for one in BY_OP.get(op, ()):
            for dtype in subject.manifest.dtypes:
                setting = Setting(one, dtype, rows=ROWS, scheme=one.schemes(subject.manifest.schemes)[-1])
                yield Case(GROUP, f"{setting.name} twice", partial(_same_bits, setting))
    for op in BY_ROW:
        one = BY_OP[op][0]
        for dtype in subject.manifest.dtypes:
            for scheme in one.schemes(subject.manifest.schemes):
                setting = Setting(one, dtype, rows=ROWS, scheme=scheme)
                yield Case(GROUP, f"{setting.name}: rows alone", partial(_rows_alone, setting))


def _ways(setting: Setting, subject: Subject) -> list[Device]:
    device = subject.device
    return [device, *(device.bound({o.op: o.function}) for o in device.overrides if serves(o, setting))]


def _same_bits(setting: Setting, subject: Subject) -> None:
    for ops in _ways(setting, subject):
        first = results(setting, subject, ops)
        for _ in range(ROUNDS - 1):
            for x, y in zip(first, results(setting, subject, ops), strict=True):
                wrong = np.argwhere(x.view(np.uint8) != y.view(np.uint8)) if x.ndim else np.argwhere(x != y)
                expect(
                    not len(wrong), f"expected the same bits from two calls of {setting.op}, got {len(wrong)} others"
                )


def _rows_alone(setting: Setting, subject: Subject) -> None:
    for ops in _ways(setting, subject):
        bench = setting.bench(ops, subject)
        call = setting.operands.make(bench)
        x, *rest = call.args
        function = getattr(ops, setting.op)
        together = ops.download(function(x, *rest, **call.options))
        for row in (0, 1, ROWS - 1):
            alone = ops.download(function(x[row : row + 1], *rest, **call.options))
            compare(alone, together[row : row + 1], setting.limit, f"row {row} of {setting.op} by itself")
