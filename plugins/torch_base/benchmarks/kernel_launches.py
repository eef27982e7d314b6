"""A launch of each kernel, of a shape that models have: Qwen2 7B's, in bfloat16 where nothing else is said.

Each takes `narrow`: see rtp_torch.kernels.tile.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from rtp_torch.kernels import context_attention, decode_attention, packed_gemm, sample
from rtp_torch.kernels.add_norm import add_norm
from rtp_torch.kernels.gated_activation import KINDS, gated_activation
from rtp_torch.kernels.grouped_gemm import grouped_gemm
from rtp_torch.kernels.packed_weight import GROUP, PackedWeight
from rtp_torch.kernels.rope_kv_write import rope_kv_write

Floats = Callable[..., Tensor]

HEADS, KV_HEADS, HEAD_DIM, BLOCK = 28, 4, 128, 32
HIDDEN, INTERMEDIATE, VOCABULARY = 3584, 18944, 152064
PROCESSORS = 132


def _floats(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(shape, dtype=dtype)


def _float32(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32)


def _ints(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.int32)


def _cache(head_dim: int, floats: Floats) -> Tensor:
    return floats(64, 2, KV_HEADS, BLOCK, head_dim)


def _decode_attention(narrow: bool, head_dim: int = HEAD_DIM, floats: Floats = _floats) -> None:
    requests = 2
    q, tables, lengths = floats(requests, HEADS, head_dim), _ints(requests, 64), _ints(requests)
    splits = decode_attention.num_splits(requests, KV_HEADS, 64 * BLOCK, PROCESSORS)
    scratch = _float32(decode_attention.scratch_size(requests, HEADS, head_dim, splits))
    decode_attention.decoder_self_attention(
        q, _cache(head_dim, floats), tables, lengths,
        scale=0.1, splits=splits, scratch=scratch, out=torch.empty_like(q), narrow=narrow,
    )  # fmt: skip


def _context_attention(narrow: bool, tokens: int, head_dim: int = HEAD_DIM, floats: Floats = _floats) -> None:
    q, requests = floats(tokens, HEADS, head_dim), 2
    tables, lengths, starts = _ints(requests, 64), _ints(requests), _ints(requests + 1)
    context_attention.context_attention(
        q, _cache(head_dim, floats), tables, lengths, starts, scale=0.1, out=torch.empty_like(q), narrow=narrow
    )


def _rope_kv_write(narrow: bool) -> None:
    q, k = _floats(4, HEADS, HEAD_DIM), _floats(4, KV_HEADS, HEAD_DIM)
    tables = _float32(4096, HEAD_DIM // 2)
    rope_kv_write(q, k, k, _cache(HEAD_DIM, _floats), _ints(4), _ints(4), (tables, tables))


def _add_norm(bias: Tensor | None) -> None:
    x = _floats(4, HIDDEN)
    add_norm(x, x, _floats(HIDDEN), bias, eps=1e-6, out=x)


def _gated_activation(kind: str) -> None:
    gated_activation(_floats(4, 2 * INTERMEDIATE), kind=kind, out=_floats(4, INTERMEDIATE))


def _packed_gemm(narrow: bool, rows: int, bits: int, *, zeros: bool = False, floats: Floats = _floats) -> None:
    groups = HIDDEN // GROUP
    codes = torch.empty(groups * bits // 8, INTERMEDIATE, GROUP, dtype=torch.uint8 if bits == 4 else torch.int8)
    scales = _floats(groups, INTERMEDIATE, dtype=torch.float16)
    weight = PackedWeight(codes, scales, scales if zeros else None, HIDDEN, 0 if zeros or bits == 8 else 8)
    splits = packed_gemm.num_splits(rows, weight, 4 * PROCESSORS, narrow=narrow)
    scratch = _float32(packed_gemm.scratch_size(rows, weight, splits))
    x, out = floats(rows, HIDDEN), floats(rows, INTERMEDIATE)
    packed_gemm.packed_gemm(x, weight, None, splits=splits, scratch=scratch, out=out, narrow=narrow)


def _grouped_gemm(narrow: bool, rows: int, floats: Floats = _floats) -> None:
    weights, addresses = [floats(HIDDEN, 2560)] * 8, torch.zeros(8, dtype=torch.int64)
    grouped_gemm(floats(rows, 2560), weights, addresses, _ints(9), out=floats(rows, HIDDEN), narrow=narrow)


def _argmax(narrow: bool) -> None:
    tiles = sample.num_tiles(VOCABULARY)
    peaks, ids = _float32(4, tiles), _ints(4, tiles)
    logits = _float32(4, VOCABULARY)
    sample.argmax(logits, tile_peaks=peaks, tile_ids=ids, peaks=peaks[:, 0], ids=ids[:, 0])


def _draw(narrow: bool) -> None:
    floats, logits = _float32(4), _float32(4, VOCABULARY)
    top_k, uniforms = torch.zeros(4, dtype=torch.int64), _floats(4, dtype=torch.float64)
    sample.draw(
        logits, floats, _ints(4), temperature=floats, top_k=top_k, top_p=floats, min_p=floats, uniforms=uniforms
    )


LAUNCHES: dict[str, Callable[[bool], None]] = {
    "decode attention": _decode_attention,
    "decode attention, heads of 256": partial(_decode_attention, head_dim=256),
    "decode attention, float32": partial(_decode_attention, floats=_float32),
    "context attention, 2048 tokens": partial(_context_attention, tokens=2048),
    "context attention, short texts": partial(_context_attention, tokens=60),
    "context attention, heads of 256": partial(_context_attention, tokens=2048, head_dim=256),
    "context attention, float32": partial(_context_attention, tokens=2048, floats=_float32),
    "rope_kv_write": _rope_kv_write,
    "add_norm, rms": lambda narrow: _add_norm(None),
    "add_norm, layer": lambda narrow: _add_norm(_floats(HIDDEN)),
    **{f"gated_activation, {kind}": lambda narrow, kind=kind: _gated_activation(kind) for kind in KINDS},
    "int8 product, 1 row": partial(_packed_gemm, rows=1, bits=8),
    "int4 product, 1 row": partial(_packed_gemm, rows=1, bits=4),
    "int4 product with zeros, 1 row": partial(_packed_gemm, rows=1, bits=4, zeros=True),
    "int8 product, 512 rows": partial(_packed_gemm, rows=512, bits=8),
    "int4 product with zeros, 512 rows": partial(_packed_gemm, rows=512, bits=4, zeros=True),
    "int4 product with zeros, 512 rows, float32": partial(_packed_gemm, rows=512, bits=4, zeros=True, floats=_float32),
    "grouped product, 8 rows": partial(_grouped_gemm, rows=8),
    "grouped product, 2048 rows": partial(_grouped_gemm, rows=2048),
    "grouped product, 2048 rows, float32": partial(_grouped_gemm, rows=2048, floats=_float32),
    "argmax": _argmax,
    "draw": _draw,
}
