"""A launch of each kernel, of a shape that models have: Qwen2 7B's, in bfloat16."""

from __future__ import annotations

from collections.abc import Callable

import torch
from rtp_torch.kernels import context_attention, decode_attention
from torch import Tensor

HEADS, KV_HEADS, HEAD_DIM, BLOCK = 28, 4, 128, 32
PROCESSORS = 132


def _floats(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(shape, dtype=dtype)


def _ints(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.int32)


def _decode_attention(requests: int) -> None:
    q, kv = _floats(requests, HEADS, HEAD_DIM), _floats(64, 2, KV_HEADS, BLOCK, HEAD_DIM)
    tables, lengths = _ints(requests, 64), _ints(requests)
    splits = decode_attention.num_splits(requests, KV_HEADS, 64 * BLOCK, PROCESSORS)
    scratch = _floats(decode_attention.scratch_size(requests, HEADS, HEAD_DIM, splits), dtype=torch.float32)
    decode_attention.decoder_self_attention(
        q, kv, tables, lengths, scale=0.1, splits=splits, scratch=scratch, out=torch.empty_like(q)
    )


def _context_attention(tokens: int, requests: int) -> None:
    q, kv = _floats(tokens, HEADS, HEAD_DIM), _floats(64, 2, KV_HEADS, BLOCK, HEAD_DIM)
    context_attention.context_attention(
        q, kv, _ints(requests, 64), _ints(requests), _ints(requests + 1), scale=0.1, out=torch.empty_like(q)
    )


LAUNCHES: dict[str, Callable[[], None]] = {
    "decode attention, split": lambda: _decode_attention(2),
    "decode attention, 64 requests": lambda: _decode_attention(64),
    "context attention, 2048 tokens": lambda: _context_attention(2048, 1),
    "context attention, short texts": lambda: _context_attention(60, 2),
}
