"""One query token a request over blocked KV, split over the context, then combined.

Source: Flash-Decoding, https://pytorch.org/blog/flash-decoding; the sums are those of arXiv:2205.14135.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from rtp_torch.kernels.dot_dtype import dot_dtype
from rtp_torch.kernels.online_softmax import LOG2E, begin, end, scores_seen, tokens_at, update
from rtp_torch.kernels.tile import Tile

MIN_SPLIT = 256  # tokens that are worth a program of their own
MAX_SPLITS = 64


def tile_of(group: int, key_bytes: int, *, narrow: bool) -> Tile:
    """Rows for the query heads of one kv head, as many as matrix instructions want at least; columns are tokens.

    Two passes of keys and values fit into 64 KiB of shared memory, all that some GPUs have, or it is one pass.
    """
    rows = max(16, triton.next_power_of_2(group))
    if key_bytes > 256:
        return Tile(rows, 16, 4) if narrow else Tile(rows, 32, 8)
    return Tile(rows, 32, 4) if narrow else Tile(rows, 64, 4, stages=2)


def num_splits(requests: int, kv_heads: int, max_context: int, processors: int) -> int:
    """Into how many programs a context is cut: so many that all `processors` have work, as long as each has enough."""
    wanted = triton.cdiv(2 * processors, max(1, requests * kv_heads))
    return max(1, min(wanted, max_context // MIN_SPLIT, MAX_SPLITS))


def scratch_size(requests: int, heads: int, head_dim: int, splits: int) -> int:
    """Floats of work space that `decoder_self_attention` wants: a sum of D, a peak and a mass for every split."""
    return 0 if splits == 1 else requests * heads * splits * (head_dim + 2)


def decoder_self_attention(
    q: Tensor,
    kv: Tensor,
    block_tables: Tensor,
    context_lens: Tensor,
    *,
    scale: float,
    splits: int,
    scratch: Tensor,
    out: Tensor,
    narrow: bool = False,
) -> None:
    """q, out: [R, H, D]; kv: [N, 2, K, B, D], strided; block_tables: [R, blocks] int32; context_lens: [R] int32.

    A request of no tokens gets zeros. scratch: `scratch_size` float32; block tables are read as far as lengths reach.
    """
    requests, heads, head_dim = q.shape
    _, _, kv_heads, block_size, _ = kv.shape
    if not requests:
        return
    group = heads // kv_heads
    tile = tile_of(group, head_dim * max(q.element_size(), kv.element_size()), narrow=narrow)
    sums, peaks = scratch[: requests * heads * splits * head_dim], scratch[requests * heads * splits * head_dim :]
    shared = {"HEAD_DIM": head_dim, "DIMS": triton.next_power_of_2(head_dim), "SPLITS": splits}
    _attend_split[(requests, kv_heads, splits)](
        q, kv, block_tables, context_lens, out, sums, peaks, scale * LOG2E,
        q.stride(0), q.stride(1), *kv.stride()[:4], block_tables.stride(0), out.stride(0), out.stride(1),
        BLOCK_SIZE=block_size, GROUP=group, ROWS=tile.rows, TILE=tile.columns,
        DOT=dot_dtype(q.dtype, kv.dtype), **shared, **tile.options,
    )  # fmt: skip
    if splits > 1:
        _combine[(requests, heads)](
            sums, peaks, out, heads, out.stride(0), out.stride(1),
            ROWS=triton.next_power_of_2(splits), **shared, **Tile(splits, head_dim, 2).options,
        )  # fmt: skip


@triton.jit
def _attend_split(
    q_ptr, kv_ptr, tables_ptr, lengths_ptr, out_ptr, sums_ptr, peaks_ptr, scale,
    q_row, q_head, kv_block, kv_part, kv_head, kv_token, table_row, out_row, out_head,
    HEAD_DIM: tl.constexpr, DIMS: tl.constexpr, SPLITS: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    GROUP: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """All query heads of one kv head over one piece of one request's context."""
    request, head, split = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    length = tl.load(lengths_ptr + request)
    piece = tl.cdiv(tl.cdiv(length, SPLITS), TILE) * TILE
    first = split * piece
    last = tl.minimum(first + piece, length)

    rows, dims = tl.arange(0, ROWS), tl.arange(0, DIMS)
    is_query = (rows < GROUP)[:, None] & (dims < HEAD_DIM)[None, :]
    heads = head * GROUP + rows
    q = tl.load(q_ptr + request * q_row + heads[:, None] * q_head + dims[None, :], mask=is_query, other=0.0).to(DOT)
    k_ptr = kv_ptr + head.to(tl.int64) * kv_head
    peak, mass, total = begin(ROWS, DIMS)
    for start in range(first, last, TILE):
        tokens = start + tl.arange(0, TILE)
        is_seen = tokens < last
        place = tokens_at(tokens, is_seen, tables_ptr + request * table_row, kv_block, kv_token, BLOCK_SIZE)
        is_kv = is_seen[:, None] & (dims < HEAD_DIM)[None, :]
        k = tl.load(k_ptr + place[:, None] + dims[None, :], mask=is_kv, other=0.0).to(DOT)
        v = tl.load(k_ptr + kv_part + place[:, None] + dims[None, :], mask=is_kv, other=0.0).to(DOT)
        scores = scores_seen(q, k, scale, is_seen[None, :])
        peak, mass, total = update(scores, v, peak, mass, total)

    if SPLITS == 1:
        result = end(mass, total).to(out_ptr.dtype.element_ty)
        tl.store(out_ptr + request * out_row + heads[:, None] * out_head + dims[None, :], result, mask=is_query)
    else:
        place = ((request * tl.num_programs(1) * GROUP) + heads) * SPLITS + split
        tl.store(sums_ptr + place[:, None] * HEAD_DIM + dims[None, :], total, mask=is_query)
        tl.store(peaks_ptr + place * 2, peak, mask=rows < GROUP)
        tl.store(peaks_ptr + place * 2 + 1, mass, mask=rows < GROUP)


@triton.jit
def _combine(
    sums_ptr, peaks_ptr, out_ptr, num_heads, out_row, out_head,
    HEAD_DIM: tl.constexpr, DIMS: tl.constexpr, SPLITS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The pieces of one request and query head, each brought to the largest peak."""
    request, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    rows, dims = tl.arange(0, ROWS), tl.arange(0, DIMS)
    place = (request * num_heads + head) * SPLITS + rows
    peaks = tl.load(peaks_ptr + place * 2, mask=rows < SPLITS, other=-float("inf"))
    masses = tl.load(peaks_ptr + place * 2 + 1, mask=rows < SPLITS, other=0.0)
    is_sum = (rows < SPLITS)[:, None] & (dims < HEAD_DIM)[None, :]
    sums = tl.load(sums_ptr + place[:, None] * HEAD_DIM + dims[None, :], mask=is_sum, other=0.0)
    peak = tl.max(peaks, 0)
    weights = tl.exp2(peaks - tl.where(peak == -float("inf"), 0.0, peak))
    result = end(tl.sum(weights * masses, 0), tl.sum(weights[:, None] * sums, 0))
    tl.store(out_ptr + request * out_row + head * out_head + dims, result.to(out_ptr.dtype.element_ty), dims < HEAD_DIM)
