"""The GGUF reader against the gguf package as writer and dequantizer, and against damaged files."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from rtp_core import dtypes
from rtp_core.checkpoint.gguf import is_gguf, read_gguf
from rtp_core.errors import CheckpointError, RtpError, UnsupportedModelError
from rtp_core.memory.qbuffer import QBuffer

WriteGguf = Callable[..., Path]


def dequantized(q: QBuffer) -> np.ndarray:
    """value = scale * (code - offset) + zero, straight from the scheme's words."""
    codes = q.payload.numpy()
    if q.scheme.packing == "halves":
        codes = np.concatenate([codes & 15, codes >> 4], axis=-1)
    values = q.scales.numpy().astype(np.float32)[..., None] * (codes.astype(np.float32) - q.scheme.offset)
    if q.zeros is not None:
        values += q.zeros.numpy().astype(np.float32)[..., None]
    return values.reshape(q.shape)


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0"])
def test_quantized_blocks_mean_what_the_gguf_package_says(write_gguf: WriteGguf, kind: str) -> None:
    values = np.random.default_rng(1).standard_normal((5, 96)).astype(np.float32)
    buffer = read_gguf(write_gguf({"w": (values, kind)})).buffer("w")
    expected = gguf.quants.dequantize(
        gguf.quants.quantize(values, gguf.GGMLQuantizationType[kind]), gguf.GGMLQuantizationType[kind]
    )
    assert isinstance(buffer, QBuffer) and buffer.shape == (5, 96)
    np.testing.assert_array_equal(dequantized(buffer), expected)
    np.testing.assert_array_equal(dequantized(buffer[1:4]), expected[1:4])


def test_plain_tensors_have_their_dtype_and_their_outermost_axis_first(write_gguf: WriteGguf) -> None:
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    file = read_gguf(write_gguf({"a": values, "b": (values.astype(np.float16), "F16"), "c": (values, "BF16")}))
    for name, dtype in [("a", dtypes.float32), ("b", dtypes.float16), ("c", dtypes.bfloat16)]:
        buffer = file.buffer(name)
        assert (buffer.dtype, buffer.shape) == (dtype, (2, 3, 4))
        np.testing.assert_array_equal(buffer.numpy().astype(np.float32), values)


def test_buffers_are_views_of_the_file_and_cannot_be_written(write_gguf: WriteGguf) -> None:
    file = read_gguf(write_gguf({"w": (np.ones((4, 32)), "Q4_1")}))
    buffer = file.buffer("w")
    assert isinstance(buffer, QBuffer)
    for part in buffer.parts:
        assert np.shares_memory(part.numpy(), file.data)
        assert not part.numpy().flags.writeable


def test_metadata_of_every_type_is_read(write_gguf: WriteGguf) -> None:
    given = {
        "s": "añ",
        "u": 7,
        "f": 0.5,
        "b": True,
        "ints": [1, 2, 3],
        "texts": ["x", "", "世"],
        "flags": [True, False],
    }
    metadata = read_gguf(write_gguf({"w": np.ones(4, np.float32)}, given)).metadata
    for key, value in given.items():
        found = metadata[key]
        assert (found.tolist() if isinstance(found, np.ndarray) else found) == value
    assert metadata["general.architecture"] == "llama"


def test_a_tail_after_the_tensors_is_fine(write_gguf: WriteGguf) -> None:
    path = write_gguf({"w": np.ones(4, np.float32)})
    path.write_bytes(path.read_bytes() + b"tail")
    assert read_gguf(path).buffer("w").numpy().tolist() == [1, 1, 1, 1]


@pytest.fixture
def sound(write_gguf: WriteGguf) -> Path:
    metadata = {"k": "v", "n": [1, 2, 3], "tokenizer.ggml.tokens": ["a", "bc"], "x": 0.25}
    k_quant = np.ones((2, 144), np.uint8), "Q4_K"
    return write_gguf({"w": (np.ones((2, 64)), "Q4_1"), "k": k_quant, "norm": np.ones(8, np.float32)}, metadata)


def test_a_file_cut_anywhere_is_one_clear_error(sound: Path, tmp_path: Path) -> None:
    whole = sound.read_bytes()
    file = read_gguf(sound)
    end = max(t.offset + t.nbytes for t in file.tensors.values())
    cut = tmp_path / "cut.gguf"
    for length in range(end):
        cut.write_bytes(whole[:length])
        with pytest.raises(CheckpointError) as caught:
            read_gguf(cut)
        assert str(cut) in str(caught.value)


def test_flipped_bytes_give_a_model_or_one_of_our_errors(sound: Path, tmp_path: Path) -> None:
    whole, damaged, generator = sound.read_bytes(), tmp_path / "damaged.gguf", random.Random(7)
    refused = 0
    for _ in range(2000):
        data = bytearray(whole)
        for _ in range(generator.choice([1, 1, 2, 8])):
            data[generator.randrange(len(data))] = generator.choice([0, 1, 127, 255, generator.randrange(256)])
        damaged.write_bytes(data)
        try:
            file = read_gguf(damaged)
            for name in file.tensors:
                buffer = file.buffer(name)
                for part in buffer.parts if isinstance(buffer, QBuffer) else (buffer,):
                    part.numpy().sum(dtype=np.float64 if part.dtype.is_floating else np.int64)
        except RtpError:
            refused += 1
    assert 200 < refused < 2000


def header(num_tensors: int = 0, num_metadata: int = 0, *, version: int = 3, rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, num_tensors, num_metadata) + rest


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def tensor(name: bytes, dims: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


NESTED = text(b"k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 1000 + struct.pack("<IQ", 0, 0)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (b"GGML" + bytes(100), "does not begin with GGUF"),
        (header(2**63), "do not fit"),
        (header(0, 2**40), "do not fit"),
        (header(0, 1, rest=struct.pack("<Q", 2**62) + bytes(32)), "ends after the file"),
        (header(0, 1, rest=text(b"k") + struct.pack("<IIQ", 9, 8, 2**50)), "do not fit"),
        (header(0, 1, rest=text(b"k") + struct.pack("<IIQ", 9, 4, 2**61)), "do not fit"),
        (header(0, 1, rest=text(b"k") + struct.pack("<I", 13) + bytes(8)), "unknown value type 13"),
        (header(0, 1, rest=NESTED), "nested"),
        (header(0, 1, rest=text(b"\xff") + bytes(12)), "UTF-8"),
        (header(0, 1, rest=text(b"") + bytes(12)), "expected 1 to"),
        (header(0, 2, rest=(text(b"k") + struct.pack("<IB", 0, 1)) * 2), "twice"),
        (header(0, 1, rest=text(b"general.alignment") + struct.pack("<II", 4, 48)), "power of two"),
        (header(0, 1, rest=text(b"general.alignment") + struct.pack("<II", 4, 0)), "power of two"),
        (header(1, rest=tensor(b"w", (4,) * 5) + bytes(512)), "5 dimensions"),
        (header(1, rest=tensor(b"w", ()) + bytes(512)), "0 dimensions"),
        (header(1, rest=tensor(b"w", (0,)) + bytes(512)), "0 elements"),
        (header(1, rest=tensor(b"w", (2**62, 4)) + bytes(512)), "elements"),
        (header(1, rest=tensor(b"w", (33, 2), 2) + bytes(512)), "whole Q4_0 blocks"),
        (header(1, rest=tensor(b"w", (4,), 0, 4) + bytes(512)), "not a multiple of 32"),
        (header(1, rest=tensor(b"w", (4,), 0, 2**63) + bytes(512)), "truncated"),
        (header(1, rest=tensor(b"w", (4096,)) + bytes(512)), "truncated"),
        (header(2, rest=tensor(b"w", (4,)) + tensor(b"w", (4,), 0, 32) + bytes(512)), "twice"),
        (header(2, rest=tensor(b"w", (16,)) + tensor(b"v", (4,), 0, 32) + bytes(512)), "overlaps"),
    ],
)
def test_a_file_that_lies_is_refused_by_name(tmp_path: Path, data: bytes, why: str) -> None:
    path = tmp_path / "lie.gguf"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=why) as caught:
        read_gguf(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(("kind", "name"), [(10, "Q2_K"), (20, "IQ4_NL"), (24, "I8"), (77, "77")])
def test_a_type_that_is_not_supported_yet_is_named_with_its_tensor(tmp_path: Path, kind: int, name: str) -> None:
    path = tmp_path / "k.gguf"
    path.write_bytes(header(1, rest=tensor(b"blk.0.w", (256, 2), kind) + bytes(4096)))
    with pytest.raises(UnsupportedModelError, match=rf"blk\.0\.w.*{name}\b.*supported are F32"):
        read_gguf(path)


def test_other_versions_and_byte_orders_are_unsupported(tmp_path: Path) -> None:
    path = tmp_path / "v.gguf"
    path.write_bytes(header(version=1))
    with pytest.raises(UnsupportedModelError, match="version 1"):
        read_gguf(path)
    path.write_bytes(header(version=3 << 24))
    with pytest.raises(UnsupportedModelError, match="big endian"):
        read_gguf(path)


def test_version_2_is_read(tmp_path: Path) -> None:
    path = tmp_path / "v2.gguf"
    path.write_bytes(header(1, version=2, rest=tensor(b"w", (4,)) + bytes(200)))
    assert read_gguf(path).buffer("w").shape == (4,)
    assert is_gguf(path)


def test_a_missing_file_is_a_checkpoint_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        read_gguf(tmp_path / "none.gguf")
    with pytest.raises(CheckpointError, match="No such file"):
        is_gguf(tmp_path / "none.gguf")
