"""A safetensors file written one tensor at a time, for files that are larger than the machine's memory.

Source of the format: the README of huggingface/safetensors.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path

import ml_dtypes
import numpy as np

ITEM_BYTES = 2  # bfloat16
ALIGNMENT = 8


def write_bfloat16(path: Path, sizes: Mapping[str, tuple[int, ...]], tensors: Iterable[np.ndarray]) -> Path:
    """`tensors` in the order of `sizes`. Whole or not at all. Raises ValueError where one is not what was announced."""
    partial = path.with_name(path.name + ".partial")
    header = _header(sizes)
    with partial.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for (name, size), values in zip(sizes.items(), tensors, strict=True):
            if values.shape != size or values.dtype != ml_dtypes.bfloat16:
                raise ValueError(f"{name} is {values.dtype} {values.shape}, expected bfloat16 {size}")
            values.view(np.uint16).tofile(file)
    return partial.rename(path)


def _header(sizes: Mapping[str, tuple[int, ...]]) -> bytes:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, size in sizes.items():
        end = start + prod(size) * ITEM_BYTES
        header[name] = {"dtype": "BF16", "shape": size, "data_offsets": (start, end)}
        start = end
    text = json.dumps(header).encode()
    return text + b" " * (-len(text) % ALIGNMENT)
