"""A file as bytes: mapped, never read whole, never written."""

from __future__ import annotations

import json
import mmap
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtp_core.errors import CheckpointError


def map_file(path: str | PathLike[str]) -> NDArray[np.uint8]:
    """The bytes of a file [nbytes], read-only; the mapping lives as long as any view of them.

    Raises CheckpointError where the file is missing, empty or cannot be read.
    """
    try:
        with open(path, "rb") as file:
            pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError as error:  # mmap's word for an empty file
        raise CheckpointError("empty model file", where=str(path), why=str(error)) from error
    except OSError as error:
        raise CheckpointError("cannot read model file", where=str(path), why=error.strerror or str(error)) from error
    return np.frombuffer(pages, np.uint8)


def forget_pages(data: NDArray[np.uint8]) -> None:
    """Let go of the pages of a mapped range that has been read: they are the file's, and come again when they are read.

    Nothing happens to memory that is not a mapped file's.
    """
    owner: Any = data
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if isinstance(owner, memoryview):
        owner = owner.obj
    if not isinstance(owner, mmap.mmap) or not hasattr(mmap, "MADV_DONTNEED"):
        return
    start = data.__array_interface__["data"][0] - np.frombuffer(owner, np.uint8).__array_interface__["data"][0]
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    last = (start + data.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if last > first:
        owner.madvise(mmap.MADV_DONTNEED, first, last - first)


def read_text(path: Path, max_bytes: int) -> str:
    """The UTF-8 text of a file of at most `max_bytes`. Raises CheckpointError."""
    try:
        with open(path, "rb") as file:
            raw = file.read(max_bytes + 1)
    except OSError as error:
        raise CheckpointError("cannot read model file", where=str(path), why=error.strerror or str(error)) from error
    if len(raw) > max_bytes:
        raise CheckpointError("model file is too large", where=str(path), why=f"expected at most {max_bytes} bytes")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CheckpointError("model file is not UTF-8", where=str(path), why=str(error)) from None


def read_json(path: Path, max_bytes: int) -> dict[str, Any]:
    """The JSON object in a file of at most `max_bytes`. Raises CheckpointError naming file and position."""
    return parse_json(read_text(path, max_bytes), path)


def read_json_list(path: Path, max_bytes: int) -> list[Any]:
    """The JSON list in a file, as `read_json`."""
    data = _parse(read_text(path, max_bytes), path)
    if not isinstance(data, list):
        raise CheckpointError("invalid JSON", where=str(path), why=f"expected a list, got {type(data).__name__}")
    return data


def parse_json(text: str, where: str | PathLike[str]) -> dict[str, Any]:
    """The JSON object in `text`; a name given twice is an error. Raises CheckpointError naming `where`."""
    data = _parse(text, where)
    if not isinstance(data, dict):
        raise CheckpointError("invalid JSON", where=str(where), why=f"expected an object, got {type(data).__name__}")
    return data


def _parse(text: str, where: str | PathLike[str]) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        why = f"{error.msg} at line {error.lineno}, column {error.colno}"
        raise CheckpointError("invalid JSON", where=str(where), why=why) from None
    except (ValueError, RecursionError) as error:  # a name twice, a number of a million digits, nesting without end
        raise CheckpointError("invalid JSON", where=str(where), why=str(error)) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"name {next(n for n in names if names.count(n) > 1)!r} is given twice")
    return data
