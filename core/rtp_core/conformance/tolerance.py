"""How far a result may be from the definition: one table, by what rounds on the way."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rtp_core.conformance.expectation import CheckFailed, expect


class Tolerance(NamedTuple):
    """nmse: squared error over squared size, of the whole result. error: of one number, over the largest one."""

    nmse: float
    error: float


# A primitive rounds once, when it stores. A composition may round what lies between its ops, too; so may an
# override round elsewhere than the default. "int8" and "float8_e4m3fn": the other operand of a quantized weight is
# quantized itself. Floats of 4 bits are off by a 16th at most, and squared by 7e-4 of their size in the mean, however
# many of them are summed.
TOLERANCES: dict[tuple[str, bool], Tolerance] = {
    ("float32", False): Tolerance(1e-10, 2e-5),
    ("float32", True): Tolerance(1e-9, 1e-4),
    ("bfloat16", False): Tolerance(2e-5, 8e-3),
    ("bfloat16", True): Tolerance(1e-3, 6e-2),
    ("float16", False): Tolerance(3e-7, 1e-3),
    ("float16", True): Tolerance(2e-5, 8e-3),
    ("int8", False): Tolerance(1e-3, 5e-2),
    ("int8", True): Tolerance(5e-3, 1e-1),
    ("float8_e4m3fn", False): Tolerance(3e-3, 1e-1),
    ("float8_e4m3fn", True): Tolerance(1.5e-2, 2e-1),
}


def tolerance(dtype: str, *, is_composite: bool, activation: str | None = None) -> Tolerance:
    """What results of `dtype` may differ by; through a quantized weight at least by what its fast path costs, which
    quantizes the other operand to `activation`."""
    own = TOLERANCES[dtype, is_composite]
    fast = own if activation is None else TOLERANCES[activation, is_composite]
    return Tolerance(max(own.nmse, fast.nmse), max(own.error, fast.error))


def compare(got: NDArray[Any], expected: NDArray[Any], limit: Tolerance, what: str) -> None:
    """Raises CheckFailed unless both agree: whole numbers exactly, the rest within the limit."""
    expect(got.shape == expected.shape, f"{what}: expected shape {expected.shape}, got {got.shape}")
    if not expected.size:
        return
    if np.issubdtype(expected.dtype, np.integer):
        _first_difference(got, expected, got != expected, what)
        return
    x, y = got.astype(np.float64), expected.astype(np.float64)
    _first_difference(x, y, ~np.isfinite(x) & np.isfinite(y), what)  # NaN out of finite operands comes here
    finite = np.isfinite(y)
    _first_difference(x, y, ~finite & ~((x == y) | (np.isnan(x) & np.isnan(y))), what)
    difference = np.where(finite, x, 0) - np.where(finite, y, 0)
    largest = float(np.abs(y[finite]).max(initial=0)) or 1.0
    _first_difference(x, y, np.abs(difference) > limit.error * largest, what, f" within {limit.error * largest:.3g}")
    size = float(np.square(y[finite]).sum()) or 1.0
    nmse = float(np.square(difference).sum()) / size
    expect(nmse <= limit.nmse, f"{what}: expected an NMSE of at most {limit.nmse:.3g}, got {nmse:.3g}")


def _first_difference(x: NDArray[Any], y: NDArray[Any], wrong: NDArray[np.bool_], what: str, room: str = "") -> None:
    if wrong.any():
        index = tuple(map(int, np.argwhere(wrong)[0]))
        raise CheckFailed(
            f"{what}: expected {y[index]:.6g}{room} at {index}, got {x[index]:.6g}; "
            f"{int(wrong.sum())} of {wrong.size} numbers differ"
        )
