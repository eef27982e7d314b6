"""add_norm and gated_activation: kernels that take a matrix row by row."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_oracle import FLOATS, assert_close, lent, put, room, rounded

from rtp_core.device.primitives import ACTIVATIONS
from rtp_core.device.reference import ReferenceDevice
from rtp_core.plugin import DType, Norm, dtypes
from rtp_torch.kernels.add_norm import add_norm
from rtp_torch.kernels.gated_activation import KINDS, gated_activation

f32 = dtypes.float32
EPS = 1e-5


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("has_bias", [False, True], ids=["rms", "layer"])
@pytest.mark.parametrize("rows, width", [(1, 1), (3, 64), (2, 577), (1, 2048)])
def test_add_norm(
    ref: ReferenceDevice, rng: np.random.Generator, rows: int, width: int, has_bias: bool, dtype: DType
) -> None:
    x, residual = (rounded(3 * rng.standard_normal((rows, width)), dtype) for _ in range(2))
    weight, bias = (rounded(rng.standard_normal(width), dtype) for _ in range(2))
    total = rounded(x + residual, dtype)
    norm = Norm(lent(ref, weight), EPS, lent(ref, bias) if has_bias else None)
    # The reference gets the rounded sum: the norm is of what is stored.
    expected, _ = ref.add_norm(lent(ref, total), lent(ref, np.zeros_like(total)), norm)
    ours, out = put(residual, dtype), room((rows, width), dtype)
    add_norm(put(x, dtype), ours, put(weight, dtype), put(bias, dtype) if has_bias else None, eps=EPS, out=out)
    assert_close(ours, lent(ref, total), dtype)
    assert_close(out, expected, dtype)


@pytest.mark.parametrize("has_bias", [False, True], ids=["rms", "layer"])
def test_what_is_not_finite_spoils_its_row_alone(
    ref: ReferenceDevice, rng: np.random.Generator, has_bias: bool
) -> None:
    x, residual = (rng.standard_normal((4, 9)).astype(np.float32) for _ in range(2))
    x[0, 3], x[1, 3], x[2] = np.nan, np.inf, 0
    residual[2] = 0
    weight = rng.standard_normal(9).astype(np.float32)
    norm = Norm(lent(ref, weight), EPS, lent(ref, weight) if has_bias else None)
    expected, total = ref.add_norm(lent(ref, x), lent(ref, residual), norm)
    ours, out = put(residual, f32), room(x.shape, f32)
    add_norm(put(x, f32), ours, put(weight, f32), put(weight, f32) if has_bias else None, eps=EPS, out=out)
    assert_close(ours, total, f32)
    assert_close(out, expected, f32)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("kind", ACTIVATIONS)
@pytest.mark.parametrize("rows, width", [(3, 65), (1, 1100)])
def test_gated_activation(
    ref: ReferenceDevice, rng: np.random.Generator, rows: int, width: int, kind: str, dtype: DType
) -> None:
    x = rounded(4 * rng.standard_normal((rows, 2 * width)), dtype)
    out = room((rows, width), dtype)
    gated_activation(put(x, dtype), kind=kind, out=out)
    assert_close(out, ref.gated_activation(lent(ref, x), kind=kind), dtype)


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activations_where_they_are_hard(ref: ReferenceDevice, kind: str) -> None:
    """Next to zero each element counts by itself; far from it nothing overflows."""
    gate = np.array([0, -0.0, 1e-20, -1e-4, 0.0999, 0.1001, 30, -30, 2e4, -2e4, np.inf, np.nan], np.float32)
    x = np.concatenate([gate, np.ones_like(gate)])[None]
    out = room((1, len(gate)), f32)
    gated_activation(put(x, f32), kind=kind, out=out)
    assert_close(out, ref.gated_activation(lent(ref, x), kind=kind), f32, scale=1e-6)


def test_an_unknown_activation_is_refused() -> None:
    out = room((1, 1), f32)
    with pytest.raises(ValueError, match="unknown activation 'swish'"):
        gated_activation(put(np.zeros((1, 2)), f32), kind="swish", out=out)


def test_all_of_cores_activations_are_here() -> None:
    assert KINDS == ACTIVATIONS


def test_no_rows_are_no_launch() -> None:
    nothing = put(np.zeros((0, 4)), f32)
    add_norm(nothing, nothing, nothing, None, eps=EPS, out=nothing)
    gated_activation(nothing, kind="silu", out=nothing[:, :2])
