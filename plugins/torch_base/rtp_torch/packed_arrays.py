"""Several short host arrays [R] in one copy to the device."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_DTYPES: Mapping[np.dtype[Any], torch.dtype] = {
    np.dtype(np.float32): torch.float32,
    np.dtype(np.float64): torch.float64,
    np.dtype(np.int32): torch.int32,
    np.dtype(np.int64): torch.int64,
}
_WIDEST = 8  # bytes: with room for so many each, all of them lie aligned


def pack(arrays: Collection[NDArray[Any]]) -> NDArray[np.uint8]:
    """uint8 [arrays, R * 8], each array at the start of a row."""
    rows = np.zeros((len(arrays), max(map(len, arrays)) * _WIDEST), np.uint8)
    for row, array in zip(rows, arrays, strict=True):
        row[: array.nbytes] = array.view(np.uint8)
    return rows


def unpack(rows: Tensor, arrays: Collection[NDArray[Any]]) -> Iterator[Tensor]:
    """The arrays, in what `pack` made of them."""
    for row, array in zip(rows.unbind(), arrays, strict=True):
        yield row[: array.nbytes].view(_DTYPES[array.dtype])
