"""Every quantized tensor type: random bytes mean what the gguf package says, bit for bit."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

from rtp_core.checkpoint import gguf_blocks
from rtp_core.checkpoint.gguf import read_gguf
from rtp_core.checkpoint.gguf_blocks import TENSOR_TYPES, TensorType, stored_buffer
from rtp_core.device import reference_ops
from rtp_core.errors import CheckpointError, MemorySpaceError, UnsupportedModelError
from rtp_core.memory.buffer import Buffer
from rtp_core.memory.qbuffer import SCHEMES, QBuffer, QuantScheme

WriteGguf = Callable[..., Path]

QUANTIZED = [kind for kind in TENSOR_TYPES.values() if isinstance(kind.stored, QuantScheme)]
NUMBERS = {"Q6_K": (208,), "Q4_1": (0, 2), "Q5_1": (0, 2), "Q4_K": (0, 2), "Q5_K": (0, 2)}  # bytes of float16 numbers
each = pytest.mark.parametrize("kind", QUANTIZED, ids=lambda kind: kind.name)


def random_blocks(kind: TensorType, rows: int, blocks: int, seed: int) -> NDArray[np.uint8]:
    """[rows, bytes], with any bits but in float16 numbers, which are finite."""
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 256, (rows, blocks, kind.block_bytes), np.uint8)
    for at in NUMBERS.get(kind.name, (0,)):
        numbers = rng.integers(0, 0x7C00, (rows, blocks), np.uint16) | (rng.integers(0, 2, (rows, blocks)) << 15)
        data[..., at : at + 2] = numbers.astype("<u2")[..., None].view(np.uint8)
    return data.reshape(rows, -1)


def numbers(buffer: Buffer) -> NDArray[np.float32]:
    assert isinstance(buffer, QBuffer)
    return reference_ops.dequantize([part.numpy() for part in buffer.parts], buffer.scheme)


def test_every_scheme_has_its_type() -> None:
    assert {kind.stored for kind in QUANTIZED} == {scheme for scheme in SCHEMES.values() if scheme.group}
    for kind in QUANTIZED:
        assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind.name]] == (kind.block, kind.block_bytes)
        assert TENSOR_TYPES[gguf.GGMLQuantizationType[kind.name].value] is kind


@each
@settings(deadline=None, max_examples=25)
@given(rows=st.integers(1, 5), blocks=st.integers(1, 4), seed=st.integers(0, 2**32))
def test_random_bytes_mean_what_the_gguf_package_says(kind: TensorType, rows: int, blocks: int, seed: int) -> None:
    data = random_blocks(kind, rows, blocks, seed)
    found = stored_buffer(kind, (rows, blocks * kind.block), data.reshape(-1))
    expected = gguf.quants.dequantize(data, gguf.GGMLQuantizationType[kind.name])
    np.testing.assert_array_equal(numbers(found), expected)
    if rows > 1:
        np.testing.assert_array_equal(numbers(found[1:]), expected[1:])


@each
def test_any_number_of_blocks_is_unpacked_whole(kind: TensorType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last chunk may be short, and a chunk may end within a row."""
    data = random_blocks(kind, 7, 3, 5)
    expected = gguf.quants.dequantize(data, gguf.GGMLQuantizationType[kind.name])
    for chunk in (1, 2, 4, 20, 21, 50):
        monkeypatch.setattr(gguf_blocks, "_CHUNK_CODES", chunk * kind.block)
        np.testing.assert_array_equal(numbers(stored_buffer(kind, (7, 3 * kind.block), data.reshape(-1))), expected)


@each
def test_unpacking_takes_little_more_than_the_result(kind: TensorType) -> None:
    data = random_blocks(kind, 2048, 16, 0).reshape(-1)
    tracemalloc.start()
    buffer = stored_buffer(kind, (2048, 16 * kind.block), data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < (1.0 * buffer.nbytes if kind.is_unpacked else 0) + (8 << 20)


@each
def test_a_files_header_costs_no_unpacking(
    kind: TensorType, write_gguf: WriteGguf, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = random_blocks(kind, 4, 2, 1)
    file = read_gguf(write_gguf({"w": (data, kind.name)}))
    np.testing.assert_array_equal(
        numbers(file.buffer("w")), gguf.quants.dequantize(data, gguf.GGMLQuantizationType[kind.name])
    )
    monkeypatch.setattr(gguf_blocks, "_UNPACK", dict.fromkeys(gguf_blocks._UNPACK, lambda _: pytest.fail("unpacked")))
    told = file.header_buffer("w")
    assert isinstance(told, QBuffer) and told.scheme is kind.stored and told.shape == (4, 2 * kind.block)
    if kind.is_unpacked:
        with pytest.raises(MemorySpaceError):
            told.payload.numpy()


@each
@pytest.mark.parametrize(
    ("shape", "error", "why"),
    [
        ((4, 257), CheckpointError, "whole .* blocks of"),
        ((2**31, 2**10), CheckpointError, "truncated"),
        ((2**40, 2**40), CheckpointError, "elements"),
        ((512,), UnsupportedModelError, "expected a matrix"),
        ((2, 2, 256), UnsupportedModelError, "expected a matrix"),
    ],
    ids=str,
)
def test_hostile_sizes_are_refused(
    kind: TensorType, shape: tuple[int, ...], error: type[Exception], why: str, tmp_path: Path
) -> None:
    number = next(n for n, other in TENSOR_TYPES.items() if other is kind)
    dims = b"".join(extent.to_bytes(8, "little") for extent in reversed(shape))
    info = (1).to_bytes(8, "little") + b"w" + len(shape).to_bytes(4, "little") + dims
    info += number.to_bytes(4, "little") + bytes(8)
    path = tmp_path / "hostile.gguf"
    path.write_bytes(b"GGUF" + (3).to_bytes(4, "little") + (1).to_bytes(8, "little") + bytes(8) + info + bytes(4096))
    with pytest.raises(error, match=why):
        read_gguf(path)
