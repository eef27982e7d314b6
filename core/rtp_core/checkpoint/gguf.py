"""GGUF files: header, metadata and tensors, for files that may lie.

Owns the container format (versions 2 and 3, little endian) and nothing about models. No count, length
or offset is used before it is known to fit the file, so work and memory are bounded by the file's size.
Source: the GGUF specification, ggml's docs/gguf.md.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from os import PathLike
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from rtp_core.checkpoint.gguf_blocks import OTHER_TYPES, TENSOR_TYPES, TensorType, stored_buffer
from rtp_core.checkpoint.mapped_file import map_file
from rtp_core.errors import CheckpointError, UnsupportedModelError
from rtp_core.memory.buffer import Buffer
from rtp_core.memory.outline import outline
from rtp_core.memory.qbuffer import QuantScheme

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MAX_METADATA = 1 << 16
_MAX_TENSORS = 1 << 20
_MAX_NAME = 1 << 10  # bytes of a key or a tensor's name
_MAX_NESTING = 4  # arrays within arrays
_MAX_ELEMENTS = 1 << 48
_MAX_ALIGNMENT = 1 << 20

# Metadata value types: number -> little-endian NumPy type. 8 is a string, 9 an array.
_SCALARS = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8",
}  # fmt: skip
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """Where one tensor lies: `offset` and `nbytes` in bytes of the file, `shape` outermost axis first."""

    name: str
    type: TensorType
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class GgufFile:
    """A mapped GGUF file. Metadata arrays are lists of strings, or NumPy arrays over the file."""

    path: Path
    version: int
    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]
    data: NDArray[np.uint8]  # the whole file, read-only

    def raw(self, name: str) -> NDArray[np.uint8]:
        """The stored bytes of a tensor [nbytes]."""
        tensor = self.tensors[name]
        return self.data[tensor.offset : tensor.offset + tensor.nbytes]

    def buffer(self, name: str) -> Buffer:
        """A tensor as a Buffer or QBuffer over the file, or unpacked where its blocks cannot be read in place."""
        tensor = self.tensors[name]
        return stored_buffer(tensor.type, tensor.shape, self.raw(name))

    def header_buffer(self, name: str) -> Buffer:
        """`buffer`, but what would have to be unpacked is an outline: this costs nothing."""
        tensor = self.tensors[name]
        return outline(tensor.shape, tensor.type.stored) if tensor.type.is_unpacked else self.buffer(name)


def is_gguf(path: str | PathLike[str]) -> bool:
    """Whether the file begins like GGUF. Raises CheckpointError where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError as error:
        raise CheckpointError("cannot read model file", where=str(path), why=error.strerror or str(error)) from error


def read_gguf(path: str | PathLike[str]) -> GgufFile:
    """Map a file and read its header. Raises CheckpointError (damaged) or UnsupportedModelError (unknown types)."""
    path = Path(path)
    data = map_file(path)
    reader = _Reader(data, path)
    version, num_tensors, num_metadata = _header(reader)
    metadata: dict[str, Any] = {}
    for _ in range(num_metadata):
        key = reader.name("a metadata key")
        if key in metadata:
            reader.fail(f"metadata {key!r} is given twice")
        reader.field = f"metadata {key!r}"
        metadata[key] = reader.value(reader.u32("a value type"))
    reader.field = "the metadata"
    alignment = _alignment(reader, metadata)
    declared = [_tensor_info(reader) for _ in range(num_tensors)]
    reader.field = "the tensors"
    start = -(-reader.at // alignment) * alignment
    tensors = _place(reader, declared, start, alignment)
    return GgufFile(path, version, metadata, tensors, data)


def _header(reader: _Reader) -> tuple[int, int, int]:
    """Version, number of tensors, number of metadata entries."""
    if reader.take(4, "the magic") != MAGIC:
        reader.fail("the file does not begin with GGUF")
    version = reader.u32("the version")
    if version not in _VERSIONS:
        why = "the file is big endian" if version & 0xFFFF == 0 else f"supported are versions {_VERSIONS}"
        raise UnsupportedModelError(f"unsupported GGUF version {version}", where=str(reader.path), why=why)
    num_tensors = reader.count("tensors", _MAX_TENSORS, least_bytes=24)
    return version, num_tensors, reader.count("metadata entries", _MAX_METADATA, least_bytes=13)


def _alignment(reader: _Reader, metadata: dict[str, Any]) -> int:
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 8 <= alignment <= _MAX_ALIGNMENT or alignment & (alignment - 1):
        reader.fail(f"general.alignment is {alignment!r}, expected a power of two from 8 to {_MAX_ALIGNMENT}")
    return alignment


def _tensor_info(reader: _Reader) -> GgufTensor:
    """One entry of the table of tensors; its offset is still relative to the start of the data."""
    name = reader.name("a tensor's name")
    reader.field = f"tensor {name!r}"
    num_dims = reader.u32("its number of dimensions")
    if not 1 <= num_dims <= 4:
        reader.fail(f"it has {num_dims} dimensions, expected 1 to 4")
    shape = tuple(reversed([reader.u64("a dimension") for _ in range(num_dims)]))  # ggml's innermost axis is first
    if not 0 < prod(shape) <= _MAX_ELEMENTS:
        reader.fail(f"shape {shape} has {prod(shape)} elements, expected 1 to {_MAX_ELEMENTS}")
    number = reader.u32("its type")
    kind = TENSOR_TYPES.get(number)
    if kind is None:
        known = ", ".join(t.name for t in TENSOR_TYPES.values())
        raise UnsupportedModelError(
            f"tensor {name!r} has type {OTHER_TYPES.get(number, number)}, which is not supported yet",
            where=str(reader.path),
            why=f"supported are {known}",
        )
    if isinstance(kind.stored, QuantScheme) and len(shape) != 2:
        raise UnsupportedModelError(
            f"tensor {name!r} is {kind.name} of shape {shape}", where=str(reader.path), why="expected a matrix"
        )
    if shape[-1] % kind.block:
        reader.fail(f"rows of {shape[-1]} elements are not whole {kind.name} blocks of {kind.block}")
    return GgufTensor(name, kind, shape, reader.u64("its offset"), prod(shape) // kind.block * kind.block_bytes)


def _place(reader: _Reader, declared: list[GgufTensor], start: int, alignment: int) -> dict[str, GgufTensor]:
    """Check that the tensors are distinct, aligned, inside the file and apart."""
    tensors: dict[str, GgufTensor] = {}
    for tensor in declared:
        reader.field = f"tensor {tensor.name!r}"
        if tensor.name in tensors:
            reader.fail("it is given twice")
        if tensor.offset % alignment:
            reader.fail(f"offset {tensor.offset} is not a multiple of {alignment}")
        if start + tensor.offset + tensor.nbytes > reader.size:
            reader.fail(
                f"its {tensor.nbytes} bytes at {start + tensor.offset} end after the file, which has {reader.size}; "
                "the file is truncated"
            )
        tensors[tensor.name] = GgufTensor(tensor.name, tensor.type, tensor.shape, start + tensor.offset, tensor.nbytes)
    end, before = start, ""
    for tensor in sorted(tensors.values(), key=lambda t: t.offset):
        if tensor.offset < end:
            reader.field = f"tensor {tensor.name!r}"
            reader.fail(f"it overlaps tensor {before!r}")
        end, before = tensor.offset + tensor.nbytes, tensor.name
    return tensors


class _Reader:
    """Reads forward through the bytes; whatever does not fit is an error that names `field`."""

    def __init__(self, data: NDArray[np.uint8], path: Path) -> None:
        self.bytes, self.path = data.data, path
        self.size, self.at, self.field = data.nbytes, 0, "the header"

    def fail(self, why: str) -> NoReturn:
        raise CheckpointError(f"bad GGUF file: {self.field}", where=str(self.path), why=why)

    def take(self, nbytes: int, what: str) -> memoryview:
        end = self.at + nbytes
        if end > self.size:
            self.fail(f"{what} of {nbytes} bytes at {self.at} ends after the file, which has {self.size}")
        taken = self.bytes[self.at : end]
        self.at = end
        return taken

    def u32(self, what: str) -> int:
        return int.from_bytes(self.take(4, what), "little")

    def u64(self, what: str) -> int:
        return int.from_bytes(self.take(8, what), "little")

    def count(self, what: str, most: int, least_bytes: int) -> int:
        """A number of things that each take at least `least_bytes` of what is left of the file."""
        count = self.u64(f"the number of {what}")
        if count > most or count * least_bytes > self.size - self.at:
            self.fail(f"{count} {what} do not fit: expected at most {min(most, (self.size - self.at) // least_bytes)}")
        return count

    def name(self, what: str) -> str:
        text = self.string()
        if not text or len(text) > _MAX_NAME:
            self.fail(f"{what} has {len(text)} characters, expected 1 to {_MAX_NAME}")
        return text

    def string(self) -> str:
        nbytes = self.u64("a string's length")
        try:
            return str(self.take(nbytes, "a string"), "utf-8")
        except UnicodeDecodeError as error:
            self.fail(f"a string is not UTF-8: {error}")

    def value(self, kind: int, nesting: int = 0) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self._array(nesting)
        if kind not in _SCALARS:
            self.fail(f"unknown value type {kind}")
        dtype = np.dtype(_SCALARS[kind])
        return np.frombuffer(self.take(dtype.itemsize, "a value"), dtype)[0].item()

    def _array(self, nesting: int) -> Any:
        if nesting == _MAX_NESTING:
            self.fail(f"arrays are nested more than {_MAX_NESTING} deep")
        kind = self.u32("an array's type")
        if kind in _SCALARS:
            dtype = np.dtype(_SCALARS[kind])
            count = self.count("elements", self.size, dtype.itemsize)
            return np.frombuffer(self.take(count * dtype.itemsize, "an array"), dtype)
        count = self.count("elements", self.size, 8)
        if kind == _STRING:
            return self._strings(count)
        return [self.value(kind, nesting + 1) for _ in range(count)]

    def _strings(self, count: int) -> list[str]:
        """The hot loop of opening a file: a vocabulary is some hundred thousand strings."""
        texts: list[str] = []
        data, at, size = self.bytes, self.at, self.size
        length: Callable[..., tuple[int]] = struct.Struct("<Q").unpack_from
        try:
            for _ in range(count):
                (nbytes,) = length(data, at)
                at += 8 + nbytes
                if at > size:
                    self.fail(f"a string of {nbytes} bytes ends after the file")
                texts.append(str(data[at - nbytes : at], "utf-8"))
        except struct.error:
            self.fail("an array ends after the file")
        except UnicodeDecodeError as error:
            self.fail(f"a string is not UTF-8: {error}")
        self.at = at
        return texts
