"""An activation of the first half of a row, times the second half."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from rtp_torch.kernels.tile import Tile

KINDS = ("gelu", "gelu_tanh", "relu", "sigmoid", "silu", "tanh")
TILE = Tile(1, 1024, 4)


def gated_activation(x: Tensor, *, kind: str, out: Tensor) -> None:
    """out = kind(x[:, :F]) * x[:, F:]. x: [T, 2F]; out: [T, F]; rows any stride apart; kind: one of KINDS."""
    rows, width = out.shape
    if kind not in KINDS:
        raise ValueError(f"unknown activation {kind!r}: expected one of {', '.join(KINDS)}")
    if not rows:
        return
    _gated_activation[(rows, triton.cdiv(width, TILE.columns))](
        x, out, width, x.stride(0), out.stride(0), KIND=kind, COLUMNS=TILE.columns, **TILE.options
    )


@triton.jit
def _gated_activation(x_ptr, out_ptr, width, x_row, out_row, KIND: tl.constexpr, COLUMNS: tl.constexpr):
    row, columns = tl.program_id(0).to(tl.int64), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    is_ours = columns < width
    gate = tl.load(x_ptr + row * x_row + columns, mask=is_ours, other=0.0).to(tl.float32)
    up = tl.load(x_ptr + row * x_row + width + columns, mask=is_ours, other=0.0).to(tl.float32)
    y = _activation(gate, KIND) * up
    tl.store(out_ptr + row * out_row + columns, y.to(out_ptr.dtype.element_ty), mask=is_ours)


@triton.jit
def _activation(x, KIND: tl.constexpr):
    if KIND == "silu":
        y = x * _sigmoid(x)
    elif KIND == "sigmoid":
        y = _sigmoid(x)
    elif KIND == "relu":
        y = tl.where(x < 0, 0.0, x)  # NaN stays NaN
    elif KIND == "tanh":
        y = _tanh(x)
    elif KIND == "gelu":
        y = 0.5 * x * (1 + tl.erf(x * 0.7071067811865476))
    else:
        tl.static_assert(KIND == "gelu_tanh")
        y = 0.5 * x * (1 + _tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))
    return y


@triton.jit
def _sigmoid(x):
    """Without overflow on either side."""
    e = tl.exp(-tl.abs(x))
    return tl.where(x >= 0, 1 / (1 + e), e / (1 + e))


@triton.jit
def _tanh(x):
    """Near 0 by its series, where 1 - e would cancel."""
    e = tl.exp(-2 * tl.abs(x))
    y = (1 - e) / (1 + e)
    square = x * x
    near = x * (1 + square * (-1 / 3 + square * (2 / 15 - square * (17 / 315))))
    return tl.where(tl.abs(x) < 0.1, near, tl.where(x < 0, -y, y))
