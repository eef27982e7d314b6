"""The safetensors reader against the library as writer, and against damaged files."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from rtp_core import dtypes
from rtp_core.checkpoint.safetensors import INDEX, SINGLE, read_safetensors, read_sharded
from rtp_core.errors import CheckpointError, RtpError, UnsupportedModelError


def write(path: Path, header: Any, body: bytes = b"", size: int | None = None) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if size is None else size) + raw + body)
    return path


def test_tensors_of_all_dtypes_are_views_of_the_file(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    given = {"a": values, "b": values.astype(np.float16), "c": values.astype(ml_dtypes.bfloat16), "e": values[:0]}
    given |= {"f": values.astype(ml_dtypes.float8_e4m3fn), "g": (40 * values).astype(np.int8)}
    safetensors.numpy.save_file(given, tmp_path / "m.safetensors", metadata={"format": "np"})
    found = read_safetensors(tmp_path / "m.safetensors")
    assert {n: b.dtype for n, b in found.items()} == {
        "a": dtypes.float32,
        "b": dtypes.float16,
        "c": dtypes.bfloat16,
        "e": dtypes.float32,
        "f": dtypes.float8_e4m3fn,
        "g": dtypes.int8,
    }
    for name, buffer in found.items():
        np.testing.assert_array_equal(buffer.numpy(), given[name])
        assert not buffer.numpy().flags.writeable
    whole = found["a"].storage
    assert found["c"].storage.address - whole.address < (tmp_path / "m.safetensors").stat().st_size


def test_tensors_after_a_header_of_odd_length_are_aligned(tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    header += b" " * (1 - len(header) % 2)
    assert len(header) % 2 == 1
    buffer = read_safetensors(write(tmp_path / "m.safetensors", header, struct.pack("<2f", 1, 2)))["w"]
    assert buffer.address % 4 == 0
    assert buffer.numpy().tolist() == [1, 2]


W = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


@pytest.mark.parametrize(
    ("header", "body", "why"),
    [
        (b"{", 0, "line 1, column 2"),
        (b"[]", 0, "expected an object"),
        (b"\xff{}", 0, "UTF-8"),
        (b"[" * 100_000, 0, "JSON"),
        (b'{"w": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}, "w": {}}', 0, "twice"),
        ({"w": 3}, 0, "expected an object with"),
        ({"w": W | {"shape": [2, 3]}}, 16, "takes 24 bytes"),
        ({"w": W | {"shape": [-2, -2]}}, 16, "shape"),
        ({"w": W | {"shape": [2.0, 2]}}, 16, "shape"),
        ({"w": W | {"shape": [1] * 9}}, 16, "shape"),
        ({"w": W | {"shape": [2**60, 2**60]}}, 16, "shape"),
        ({"w": W | {"data_offsets": [16, 0]}}, 16, "takes 16 bytes"),
        ({"w": W | {"data_offsets": [0]}}, 16, "two offsets"),
        ({"w": W | {"data_offsets": [0, True]}}, 16, "two offsets"),
        ({"w": W}, 8, "truncated"),
        ({"w": W}, 24, "tail"),
        ({"w": W | {"data_offsets": [8, 24]}}, 24, "begins at 8"),
        ({"w": W, "v": W}, 16, "begins at 0"),
    ],
)
def test_a_header_that_lies_is_refused_by_name(tmp_path: Path, header: Any, body: int, why: str) -> None:
    path = write(tmp_path / "m.safetensors", header, bytes(body))
    with pytest.raises(CheckpointError, match=why) as caught:
        read_safetensors(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("size", [2**63, 100_000_001, 17])
def test_a_header_longer_than_the_file_is_refused(tmp_path: Path, size: int) -> None:
    with pytest.raises(CheckpointError, match="its length"):
        read_safetensors(write(tmp_path / "m.safetensors", b"{}", bytes(8), size=size))


@pytest.mark.parametrize("dtype", ["I32", "F8_E5M2", "BOOL", None])
def test_other_dtypes_are_unsupported_by_name(tmp_path: Path, dtype: str | None) -> None:
    path = write(tmp_path / "m.safetensors", {"w": W | {"dtype": dtype}}, bytes(16))
    with pytest.raises(UnsupportedModelError, match=f"'w'.*{dtype}.*F32, F16, BF16"):
        read_safetensors(path)


def test_a_file_cut_anywhere_or_with_flipped_bytes_gives_our_errors_only(tmp_path: Path) -> None:
    safetensors.numpy.save_file({"a": np.ones((2, 3), np.float32), "b": np.ones(4, np.float16)}, tmp_path / "m")
    whole, path, generator = (tmp_path / "m").read_bytes(), tmp_path / "d", random.Random(3)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            read_safetensors(path)
    refused = 0
    for _ in range(2000):
        data = bytearray(whole)
        for _ in range(generator.choice([1, 2, 8])):
            data[generator.randrange(len(data) - 32)] = generator.randrange(256)
        path.write_bytes(data)
        try:
            for buffer in read_safetensors(path).values():
                buffer.numpy().astype(np.float32)
        except RtpError:
            refused += 1
    assert refused > 1000


def shards(folder: Path, weight_map: Any) -> Path:
    safetensors.numpy.save_file({"a": np.ones(2, np.float32)}, folder / "one.safetensors")
    safetensors.numpy.save_file({"b": np.zeros(3, np.float32)}, folder / "two.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return folder


def test_shards_are_joined_under_their_index(tmp_path: Path) -> None:
    found = read_sharded(shards(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"}))
    assert {name: buffer.shape for name, buffer in found.items()} == {"a": (2,), "b": (3,)}


def test_without_an_index_the_single_file_is_read(tmp_path: Path) -> None:
    safetensors.numpy.save_file({"a": np.ones(2, np.float32)}, tmp_path / SINGLE)
    assert set(read_sharded(tmp_path)) == {"a"}


@pytest.mark.parametrize(
    "weight_map",
    [
        {"a": "../one.safetensors"},
        {"a": "/etc/passwd"},
        {"a": "sub/one.safetensors"},
        {"a": "..\\one.safetensors"},
        {"a": "one.safetensors\0"},
        {"a": "one.bin"},
        {"a": ""},
        {"a": 3},
        ["a"],
        None,
        {"b": "one.safetensors"},
        {"a": "three.safetensors"},
    ],
)
def test_an_index_reaches_only_sound_files_of_its_own_folder(tmp_path: Path, weight_map: Any) -> None:
    with pytest.raises(CheckpointError):
        read_sharded(shards(tmp_path, weight_map))
