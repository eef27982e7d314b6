"""How ggml stores numbers: its tensor types, and their blocks as the parts of a plain QBuffer.

Blocks that have codes in the order and width of their scheme are read where they lie in the file. The others (bits
of a code in two places, scales of 6 bits, nibbles in runs of 64) are unpacked into memory of their own.
Source: the structs of llama.cpp's ggml-common.h; where each bit lies, its dequantize_row functions in ggml-quants.c.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtp_core import dtypes
from rtp_core.dtypes import DType
from rtp_core.memory.buffer import Buffer, Shape
from rtp_core.memory.qbuffer import Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0, QBuffer, QuantScheme
from rtp_core.memory.space import HOST
from rtp_core.memory.storage import Storage

Bytes = NDArray[np.uint8]
Array = NDArray[Any]

_CHUNK_CODES = 1 << 19  # unpacked at once: what is worked on stays in the cache, and is small beside the tensor


@dataclass(frozen=True, slots=True)
class TensorType:
    """How ggml stores elements: in blocks of `block` elements and `block_bytes` bytes."""

    name: str
    block: int
    block_bytes: int
    stored: DType | QuantScheme

    @property
    def is_unpacked(self) -> bool:
        """Whether reading a tensor takes memory of its own."""
        return self.name in _UNPACK


TENSOR_TYPES = {
    0: TensorType("F32", 1, 4, dtypes.float32),
    1: TensorType("F16", 1, 2, dtypes.float16),
    30: TensorType("BF16", 1, 2, dtypes.bfloat16),
    2: TensorType("Q4_0", 32, 18, Q4_0),
    3: TensorType("Q4_1", 32, 20, Q4_1),
    6: TensorType("Q5_0", 32, 22, Q5_0),
    7: TensorType("Q5_1", 32, 24, Q5_1),
    8: TensorType("Q8_0", 32, 34, Q8_0),
    12: TensorType("Q4_K", 256, 144, Q4_K),
    13: TensorType("Q5_K", 256, 176, Q5_K),
    14: TensorType("Q6_K", 256, 210, Q6_K),
}
OTHER_TYPES = {
    9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S",
    20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64",
    29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
}  # fmt: skip


def stored_buffer(kind: TensorType, shape: Shape, raw: Bytes) -> Buffer:
    """`raw` bytes [nbytes] of a tensor as a Buffer or QBuffer: over them, or unpacked. Quantized ones are matrices."""
    scheme = kind.stored
    if isinstance(scheme, DType):
        return Buffer(_borrowed(raw), scheme, shape)
    rows, columns = shape
    if kind.is_unpacked:
        parts = [Buffer.borrow(part, "checkpoint") for part in _unpacked(kind, scheme, rows, columns, raw)]
        return QBuffer.of_parts(scheme, (rows, columns), parts)
    # A block is scale, minimum where there is one, codes: each part is a strided view of the same bytes.
    storage, blocks, block_bytes = _borrowed(raw), columns // scheme.group, kind.block_bytes
    head = block_bytes // 2
    numbers = [Buffer(storage, dtypes.float16, (rows, blocks), (blocks * head, head), offset) for offset in (0, 2)]
    payload_at = block_bytes - scheme.payload_bytes
    payload = Buffer(
        storage,
        scheme.code_dtype,
        (rows, blocks, scheme.payload_bytes),
        (blocks * block_bytes, block_bytes, 1),
        payload_at,
    )
    return QBuffer(scheme, (rows, columns), payload, numbers[0], None if scheme.symmetric else numbers[1])


def _borrowed(raw: Bytes) -> Storage:
    return Storage(HOST, raw.__array_interface__["data"][0], raw.nbytes, "checkpoint", borrowed=raw)


def _unpacked(kind: TensorType, scheme: QuantScheme, rows: int, columns: int, raw: Bytes) -> list[Array]:
    """The parts of a plain matrix, a chunk of blocks at a time."""
    parts = [np.empty(shape, dtype.numpy) for shape, dtype in scheme.parts(rows, columns).values()]
    blocks = raw.reshape(-1, kind.block_bytes)
    by_block = [part.reshape(len(blocks), -1) for part in parts]
    step = _CHUNK_CODES // kind.block
    for start in range(0, len(blocks), step):
        chunk = blocks[start : start + step]
        for part, values in zip(by_block, _UNPACK[kind.name](chunk), strict=True):
            part[start : start + step] = values.reshape(len(chunk), -1)
    return parts


# Each takes blocks [n, block_bytes] and gives the parts of its scheme, n blocks of each.


def _q5_0(blocks: Bytes) -> tuple[Array, ...]:
    return _five_bits(blocks[:, 6:], blocks[:, 2:6]), _halves(blocks[:, :2])


def _q5_1(blocks: Bytes) -> tuple[Array, ...]:
    return _five_bits(blocks[:, 8:], blocks[:, 4:8]), _halves(blocks[:, :2]), _halves(blocks[:, 2:4])


def _q4_k(blocks: Bytes) -> tuple[Array, ...]:
    """Of 32 bytes, the low nibbles are one group and the high ones the next."""
    runs = blocks[:, 16:].reshape(-1, 4, 2, 16)
    first, last = runs[:, :, 0], runs[:, :, 1]  # codes 0 to 15 and 16 to 31 of both groups
    payload = np.stack([(first & 15) | (last << 4), (first >> 4) | (last & 0xF0)], axis=2)
    return payload, *_scales_and_minima(blocks)


def _q5_k(blocks: Bytes) -> tuple[Array, ...]:
    """As in Q4_K; the fifth bits of group g are bits g of 32 bytes."""
    low = (blocks[:, 48:].reshape(-1, 4, 1, 32) >> _shifts(0, 4)) & 15
    fifth = (blocks[:, 16:48].reshape(-1, 1, 32) >> _shifts(*range(8))) & 1
    return low.reshape(-1, 8, 32) | (fifth << 4), *_scales_and_minima(blocks)


def _q6_k(blocks: Bytes) -> tuple[Array, ...]:
    """Of each 128 codes, 64 bytes hold the low nibbles, 32 bytes the two bits above, from the lowest bits up."""
    low = (blocks[:, :128].reshape(-1, 2, 1, 64) >> _shifts(0, 4)) & 15
    high = (blocks[:, 128:192].reshape(-1, 2, 1, 32) >> _shifts(0, 2, 4, 6)) & 3
    return low.reshape(-1, 2, 4, 32) | (high << 4), blocks[:, 192:208].view(np.int8), _halves(blocks[:, 208:])


_UNPACK: Mapping[str, Callable[[Bytes], tuple[Array, ...]]] = {
    "Q5_0": _q5_0, "Q5_1": _q5_1, "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k,
}  # fmt: skip


def _five_bits(nibbles: Bytes, fifth: Bytes) -> Array:
    """32 codes: 16 bytes with codes i and i + 16, and the fifth bit of code i as bit i of 4 bytes."""
    low = (nibbles[:, None, :] >> _shifts(0, 4)) & 15
    return low.reshape(-1, 32) | (np.unpackbits(fifth, axis=1, bitorder="little") << 4)


def _scales_and_minima(blocks: Bytes) -> tuple[Array, ...]:
    """Scales, minima, the scales' factor and the minima's negated: numbers are d * scale * code - dmin * minimum.

    Of 12 bytes, the first four have six bits of scales 0 to 3, the next four of minima 0 to 3; the last four the low
    nibbles of scales (low) and minima (high) 4 to 7, whose top two bits fill up the first eight.
    """
    first, second, third = (blocks[:, at : at + 4] for at in (4, 8, 12))
    scales = np.concatenate([first & 63, (third & 15) | (first >> 6 << 4)], axis=1)
    minima = np.concatenate([second & 63, (third >> 4) | (second >> 6 << 4)], axis=1)
    return scales, minima, _halves(blocks[:, :2]), -_halves(blocks[:, 2:4])


def _halves(two_bytes: Bytes) -> NDArray[np.float16]:
    """Two bytes a block as float16 [n]."""
    return np.ascontiguousarray(two_bytes).view(np.float16)[:, 0]


def _shifts(*bits: int) -> Bytes:
    """For an axis of its own before the bytes."""
    return np.array(bits, np.uint8)[:, None]
