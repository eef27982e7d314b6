"""Element types: one object per type, with its width and its NumPy twin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from rtp_core.errors import ConfigError


@dataclass(frozen=True, slots=True, eq=False)
class DType:
    """An element type. Compared by identity: there is one object per name."""

    name: str
    itemsize: int  # bytes
    numpy: np.dtype[Any]
    is_floating: bool

    def __repr__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return parse, (self.name,)


def _make(name: str, scalar: Any, is_floating: bool) -> DType:
    numpy_dtype = np.dtype(scalar)
    return DType(name, numpy_dtype.itemsize, numpy_dtype, is_floating)


float32 = _make("float32", np.float32, True)
float16 = _make("float16", np.float16, True)
bfloat16 = _make("bfloat16", ml_dtypes.bfloat16, True)
float8_e4m3fn = _make("float8_e4m3fn", ml_dtypes.float8_e4m3fn, True)  # codes of weights: no op computes in it
int64 = _make("int64", np.int64, False)
int32 = _make("int32", np.int32, False)
int8 = _make("int8", np.int8, False)
uint8 = _make("uint8", np.uint8, False)

ALL: dict[str, DType] = {d.name: d for d in (float32, float16, bfloat16, float8_e4m3fn, int64, int32, int8, uint8)}
_BY_NUMPY: dict[np.dtype[Any], DType] = {d.numpy: d for d in ALL.values()}


def parse(name: str) -> DType:
    """The type of that name. Raises ConfigError for an unknown one."""
    try:
        return ALL[name]
    except KeyError:
        raise ConfigError(f"unknown dtype {name!r}", why=f"expected one of {', '.join(ALL)}") from None


def of_numpy(dtype: np.dtype[Any]) -> DType:
    """The type whose NumPy twin is `dtype`. Raises ConfigError where there is none."""
    try:
        return _BY_NUMPY[dtype]
    except KeyError:
        raise ConfigError(f"unsupported array dtype {dtype}", why=f"expected one of {', '.join(ALL)}") from None
