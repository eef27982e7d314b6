"""Rotate queries and keys, and store keys and values in their blocks: one launch instead of three.

Source: RoPE, arXiv:2104.09864, in the half-split form of Hugging Face's llama, which is core's.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from rtp_torch.kernels.tile import Tile

WORK = 1024  # elements of a program


def tile_of(heads: int, head_dim: int) -> Tile:
    """Rows are heads of one token, columns their elements."""
    columns = triton.next_power_of_2(head_dim)
    return Tile(min(triton.next_power_of_2(heads), max(1, WORK // columns)), columns, 2)


def rope_kv_write(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kv: Tensor,
    slots: Tensor,
    positions: Tensor,
    tables: tuple[Tensor, Tensor] | None,
) -> None:
    """q [T, H, D] and k [T, K, D] are rotated in place, k and v stored in kv [N, 2, K, B, D], all strided.

    slots, positions: [T] int32; tables: cos and sin [P, n] float32, or None where nothing is rotated; dims from 2n on
    pass through. A token whose slot is negative is stored nowhere: it fills a recorded batch up.
    """
    tokens, heads, head_dim = q.shape
    _, _, kv_heads, block_size, _ = kv.shape
    if not tokens:
        return
    pairs = 0 if tables is None else tables[0].shape[1]
    cos, sin = (q, q) if tables is None else tables  # never read without pairs
    tile = tile_of(heads, head_dim)
    query_programs = triton.cdiv(heads, tile.rows)
    _rope_kv_write[(tokens, query_programs + triton.cdiv(kv_heads, tile.rows))](
        q, k, v, kv, slots, positions, cos, sin, query_programs, heads, kv_heads,
        *q.stride()[:2], *k.stride()[:2], *v.stride()[:2], *kv.stride()[:4], cos.stride(0), sin.stride(0),
        BLOCK_SIZE=block_size, HEAD_DIM=head_dim, PAIRS=pairs,
        HEADS=tile.rows, DIMS=tile.columns, HALF=triton.next_power_of_2(max(1, pairs)), **tile.options,
    )  # fmt: skip


@triton.jit
def _rope_kv_write(
    q_ptr, k_ptr, v_ptr, kv_ptr, slots_ptr, positions_ptr, cos_ptr, sin_ptr, query_programs, num_heads, num_kv_heads,
    q_row, q_head, k_row, k_head, v_row, v_head, kv_block, kv_part, kv_head, kv_token, cos_row, sin_row,
    BLOCK_SIZE: tl.constexpr, HEAD_DIM: tl.constexpr, PAIRS: tl.constexpr,
    HEADS: tl.constexpr, DIMS: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """Some heads of one token: of its query, or of its key and value."""
    token, program = tl.program_id(0).to(tl.int64), tl.program_id(1)
    position = tl.load(positions_ptr + token)
    cos_ptr, sin_ptr = cos_ptr + position.to(tl.int64) * cos_row, sin_ptr + position.to(tl.int64) * sin_row
    if program < query_programs:
        heads = program * HEADS + tl.arange(0, HEADS)
        if PAIRS > 0:
            _rotate(q_ptr + token * q_row, heads, num_heads, q_head, cos_ptr, sin_ptr, PAIRS, HALF)
        return

    heads = (program - query_programs) * HEADS + tl.arange(0, HEADS)
    dims = tl.arange(0, DIMS)
    slot = tl.load(slots_ptr + token)
    block = (slot // BLOCK_SIZE).to(tl.int64)
    kv_ptr += block * kv_block + (slot % BLOCK_SIZE) * kv_token
    is_stored = heads < tl.where(slot < 0, 0, num_kv_heads)
    if PAIRS > 0:
        first, second = _rotate(k_ptr + token * k_row, heads, num_kv_heads, k_head, cos_ptr, sin_ptr, PAIRS, HALF)
        pairs = tl.arange(0, HALF)
        place = kv_ptr + heads[:, None] * kv_head + pairs[None, :]
        is_pair = is_stored[:, None] & (pairs < PAIRS)[None, :]
        tl.store(place, first.to(kv_ptr.dtype.element_ty), mask=is_pair)
        tl.store(place + PAIRS, second.to(kv_ptr.dtype.element_ty), mask=is_pair)
    is_rest = is_stored[:, None] & ((dims >= 2 * PAIRS) & (dims < HEAD_DIM))[None, :]
    k = tl.load(k_ptr + token * k_row + heads[:, None] * k_head + dims[None, :], mask=is_rest, other=0.0)
    tl.store(kv_ptr + heads[:, None] * kv_head + dims[None, :], k.to(kv_ptr.dtype.element_ty), mask=is_rest)
    is_value = is_stored[:, None] & (dims < HEAD_DIM)[None, :]
    v = tl.load(v_ptr + token * v_row + heads[:, None] * v_head + dims[None, :], mask=is_value, other=0.0)
    place = kv_ptr + kv_part + heads[:, None] * kv_head + dims[None, :]
    tl.store(place, v.to(kv_ptr.dtype.element_ty), mask=is_value)


@triton.jit
def _rotate(x_ptr, heads, num_heads, x_head, cos_ptr, sin_ptr, PAIRS: tl.constexpr, HALF: tl.constexpr):
    """Pairs (i, i + n) of some heads, in place; both halves as they are stored: [HEADS, HALF] each."""
    pairs = tl.arange(0, HALF)
    cos = tl.load(cos_ptr + pairs, mask=pairs < PAIRS, other=0.0)[None, :]
    sin = tl.load(sin_ptr + pairs, mask=pairs < PAIRS, other=0.0)[None, :]
    place = x_ptr + heads[:, None] * x_head + pairs[None, :]
    is_pair = (heads < num_heads)[:, None] & (pairs < PAIRS)[None, :]
    first = tl.load(place, mask=is_pair, other=0.0).to(tl.float32)
    second = tl.load(place + PAIRS, mask=is_pair, other=0.0).to(tl.float32)
    turned_first = (first * cos - second * sin).to(x_ptr.dtype.element_ty)
    turned_second = (second * cos + first * sin).to(x_ptr.dtype.element_ty)
    tl.store(place, turned_first, mask=is_pair)
    tl.store(place + PAIRS, turned_second, mask=is_pair)
    return turned_first, turned_second
