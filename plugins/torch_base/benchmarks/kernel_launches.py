"""A launch of each kernel, of a shape that models have: Qwen2 7B's, in bfloat16.

Each takes `narrow`: see rtp_torch.kernels.tile.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rtp_torch.kernels import context_attention, decode_attention, packed_gemm, sample
from rtp_torch.kernels.add_norm import add_norm
from rtp_torch.kernels.gated_activation import KINDS, gated_activation
from rtp_torch.kernels.grouped_gemm import grouped_gemm
from rtp_torch.kernels.packed_weight import GROUP, PackedWeight
from rtp_torch.kernels.rope_kv_write import rope_kv_write

HEADS, KV_HEADS, HEAD_DIM, BLOCK = 28, 4, 128, 32
HIDDEN, INTERMEDIATE, VOCABULARY = 3584, 18944, 152064
PROCESSORS = 132


def _floats(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(shape, dtype=dtype)


def _ints(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.int32)


def _cache() -> Tensor:
    return _floats(64, 2, KV_HEADS, BLOCK, HEAD_DIM)


def _decode_attention(narrow: bool) -> None:
    requests = 2
    q, tables, lengths = _floats(requests, HEADS, HEAD_DIM), _ints(requests, 64), _ints(requests)
    splits = decode_attention.num_splits(requests, KV_HEADS, 64 * BLOCK, PROCESSORS)
    scratch = _floats(decode_attention.scratch_size(requests, HEADS, HEAD_DIM, splits), dtype=torch.float32)
    decode_attention.decoder_self_attention(
        q, _cache(), tables, lengths, scale=0.1, splits=splits, scratch=scratch, out=torch.empty_like(q), narrow=narrow
    )


def _context_attention(tokens: int, requests: int, narrow: bool) -> None:
    q, tables, lengths, starts = (
        _floats(tokens, HEADS, HEAD_DIM), _ints(requests, 64), _ints(requests), _ints(requests + 1),
    )  # fmt: skip
    context_attention.context_attention(
        q, _cache(), tables, lengths, starts, scale=0.1, out=torch.empty_like(q), narrow=narrow
    )


def _rope_kv_write(narrow: bool) -> None:
    q, k = _floats(4, HEADS, HEAD_DIM), _floats(4, KV_HEADS, HEAD_DIM)
    tables = _floats(4096, HEAD_DIM // 2, dtype=torch.float32)
    rope_kv_write(q, k, k, _cache(), _ints(4), _ints(4), (tables, tables))


def _add_norm(bias: Tensor | None) -> None:
    x = _floats(4, HIDDEN)
    add_norm(x, x, _floats(HIDDEN), bias, eps=1e-6, out=x)


def _gated_activation(kind: str) -> None:
    gated_activation(_floats(4, 2 * INTERMEDIATE), kind=kind, out=_floats(4, INTERMEDIATE))


def _packed_gemm(rows: int, bits: int, zeros: bool, narrow: bool) -> None:
    groups = HIDDEN // GROUP
    codes = torch.empty(groups * bits // 8, INTERMEDIATE, GROUP, dtype=torch.uint8 if bits == 4 else torch.int8)
    scales = _floats(groups, INTERMEDIATE, dtype=torch.float16)
    weight = PackedWeight(codes, scales, scales if zeros else None, HIDDEN, 0 if zeros or bits == 8 else 8)
    splits = packed_gemm.num_splits(rows, weight, 4 * PROCESSORS)
    scratch = _floats(packed_gemm.scratch_size(rows, weight, splits), dtype=torch.float32)
    out = _floats(rows, INTERMEDIATE)
    x = _floats(rows, HIDDEN)
    packed_gemm.packed_gemm(x, weight, None, splits=splits, scratch=scratch, out=out, narrow=narrow)


def _grouped_gemm(rows: int, narrow: bool) -> None:
    weight, addresses = _floats(HIDDEN, 2560), torch.zeros(8, dtype=torch.int64)
    grouped_gemm(_floats(rows, 2560), weight, addresses, _ints(9), out=_floats(rows, HIDDEN), narrow=narrow)


def _argmax(narrow: bool) -> None:
    tiles = sample.num_tiles(VOCABULARY)
    peaks, ids = _floats(4, tiles, dtype=torch.float32), _ints(4, tiles)
    logits = _floats(4, VOCABULARY, dtype=torch.float32)
    sample.argmax(logits, tile_peaks=peaks, tile_ids=ids, peaks=peaks[:, 0], ids=ids[:, 0])


def _draw(narrow: bool) -> None:
    floats, logits = _floats(4, dtype=torch.float32), _floats(4, VOCABULARY, dtype=torch.float32)
    top_k, uniforms = torch.zeros(4, dtype=torch.int64), _floats(4, dtype=torch.float64)
    sample.draw(
        logits, floats, _ints(4), temperature=floats, top_k=top_k, top_p=floats, min_p=floats, uniforms=uniforms
    )


LAUNCHES: dict[str, Callable[[bool], None]] = {
    "decode attention": _decode_attention,
    "context attention, 2048 tokens": lambda narrow: _context_attention(2048, 1, narrow),
    "context attention, short texts": lambda narrow: _context_attention(60, 2, narrow),
    "rope_kv_write": _rope_kv_write,
    "add_norm, rms": lambda narrow: _add_norm(None),
    "add_norm, layer": lambda narrow: _add_norm(_floats(HIDDEN)),
    **{f"gated_activation, {kind}": lambda narrow, kind=kind: _gated_activation(kind) for kind in KINDS},
    "int8 product, 1 row": lambda narrow: _packed_gemm(1, 8, False, narrow),
    "int4 product, 1 row": lambda narrow: _packed_gemm(1, 4, False, narrow),
    "int4 product with zeros, 1 row": lambda narrow: _packed_gemm(1, 4, True, narrow),
    "int8 product, 512 rows": lambda narrow: _packed_gemm(512, 8, False, narrow),
    "int4 product with zeros, 512 rows": lambda narrow: _packed_gemm(512, 4, True, narrow),
    "grouped product, 8 rows": lambda narrow: _grouped_gemm(8, narrow),
    "grouped product, 2048 rows": lambda narrow: _grouped_gemm(2048, narrow),
    "argmax": _argmax,
    "draw": _draw,
}
