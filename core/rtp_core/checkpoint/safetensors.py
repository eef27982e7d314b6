"""Safetensors: one file, or shards under an index, as views of the mapped bytes.

The header is read here, and not by the safetensors library, because that copies or needs torch for bfloat16.
Source: the format's description in the safetensors README.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from rtp_core import dtypes
from rtp_core.checkpoint.mapped_file import map_file, parse_json, read_json
from rtp_core.dtypes import DType
from rtp_core.errors import CheckpointError, UnsupportedModelError
from rtp_core.memory.buffer import Buffer
from rtp_core.memory.space import HOST
from rtp_core.memory.storage import Storage

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

_MAX_HEADER = 100_000_000  # bytes, the format's own limit
_MAX_INDEX = 100_000_000
_MAX_DIMS = 8
# Integers are no weights, but some encoders come with a list of their positions, and codes of 8 bits have scales.
_DTYPES: dict[str, DType] = {
    "F32": dtypes.float32,
    "F16": dtypes.float16,
    "BF16": dtypes.bfloat16,
    "I64": dtypes.int64,
    "I8": dtypes.int8,
    "F8_E4M3": dtypes.float8_e4m3fn,
}


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    dtype: DType
    shape: tuple[int, ...]
    start: int  # bytes from the end of the header
    end: int


def read_safetensors(path: Path) -> dict[str, Buffer]:
    """The tensors of one file. Raises CheckpointError (damaged) or UnsupportedModelError (another dtype)."""
    data = map_file(path)
    size = int.from_bytes(data[:8].tobytes(), "little")
    if data.nbytes < 8 or size > min(_MAX_HEADER, data.nbytes - 8):
        _fail(path, "the header", f"its length is {size} bytes, expected at most {min(_MAX_HEADER, data.nbytes - 8)}")
    try:
        text = data[8 : 8 + size].tobytes().decode()
    except UnicodeDecodeError as error:
        _fail(path, "the header", f"it is not UTF-8: {error}")
    header = parse_json(text, f"the header of {path}")
    entries = [_entry(path, name, value) for name, value in header.items() if name != "__metadata__"]
    body = data[8 + size :]
    _check_coverage(path, entries, body.nbytes)
    return {entry.name: _buffer(entry, body) for entry in entries}


def read_sharded(folder: Path) -> dict[str, Buffer]:
    """The tensors of a folder: those in its index's shards, or in its single file."""
    index = folder / INDEX
    if not index.exists():
        return read_safetensors(folder / SINGLE)
    weight_map = read_json(index, _MAX_INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        _fail(index, "weight_map", "expected an object of tensor names and file names")
    shards: dict[str, dict[str, Buffer]] = {}
    for shard in sorted(set(weight_map.values())):
        # A plain name: an index must not reach files outside its folder.
        if not shard.endswith(".safetensors") or shard != Path(shard).name or "\\" in shard or "\0" in shard:
            _fail(index, "weight_map", f"expected the name of a .safetensors file beside it, got {shard!r:.100}")
        shards[shard] = read_safetensors(folder / shard)
    tensors = {}
    for name, shard in weight_map.items():
        if name not in shards[shard]:
            _fail(index, "weight_map", f"tensor {name!r:.100} is not in {shard}")
        tensors[name] = shards[shard][name]
    return tensors


def _entry(path: Path, name: str, value: Any) -> _Entry:
    what = f"tensor {name!r:.100}"
    if not isinstance(value, dict):
        _fail(path, what, "expected an object with dtype, shape and data_offsets")
    shape, offsets = _sizes(value.get("shape")), _sizes(value.get("data_offsets"))
    if shape is None or len(shape) > _MAX_DIMS:
        _fail(path, what, f"shape: expected at most {_MAX_DIMS} sizes, got {value.get('shape')!r:.100}")
    if offsets is None or len(offsets) != 2:
        _fail(path, what, f"data_offsets: expected two offsets, got {value.get('data_offsets')!r:.100}")
    dtype = _DTYPES.get(str(value.get("dtype")))
    if dtype is None:
        raise UnsupportedModelError(
            f"{what} has dtype {value.get('dtype')!r:.40}", where=str(path), why=f"supported are {', '.join(_DTYPES)}"
        )
    expected = prod(shape) * dtype.itemsize
    if offsets[1] - offsets[0] != expected:
        _fail(path, what, f"shape {shape} of {dtype} takes {expected} bytes, data_offsets are {offsets}")
    return _Entry(name, dtype, shape, *offsets)


def _sizes(value: Any) -> tuple[int, ...] | None:
    """A list of whole numbers from 0 to 2**48, as a tuple; None for anything else."""
    if not isinstance(value, list) or not all(type(n) is int and 0 <= n <= 1 << 48 for n in value):
        return None
    return tuple(value)


def _check_coverage(path: Path, entries: list[_Entry], nbytes: int) -> None:
    """Tensors must tile the data: no gap, no overlap, nothing after the last."""
    end = 0
    for entry in sorted(entries, key=lambda e: (e.start, e.end)):
        if entry.start != end:
            _fail(path, f"tensor {entry.name!r:.100}", f"its data begins at {entry.start}, expected {end}")
        end = entry.end
    if end != nbytes:
        _fail(path, "the data", f"the tensors end at byte {end} of {nbytes}; the file is truncated or has a tail")


def _buffer(entry: _Entry, body: NDArray[np.uint8]) -> Buffer:
    raw = body[entry.start : entry.end]
    if raw.__array_interface__["data"][0] % entry.dtype.itemsize:
        raw = raw.copy()  # kernels need aligned elements; a header of odd length is legal but rare
    storage = Storage(HOST, raw.__array_interface__["data"][0], raw.nbytes, "checkpoint", borrowed=raw)
    return Buffer(storage, entry.dtype, entry.shape)


def _fail(path: Path, what: str, why: str) -> NoReturn:
    raise CheckpointError(f"bad safetensors file: {what}", where=str(path), why=why)
