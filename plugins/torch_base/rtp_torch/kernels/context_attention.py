"""Causal attention of prefill requests over blocked KV, their earlier tokens included.

Source: arXiv:2307.08691 (FlashAttention-2), with keys and values found through block tables.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from rtp_torch.kernels.dot_dtype import dot_dtype
from rtp_torch.kernels.online_softmax import LOG2E, begin, end, scores_seen, tokens_at, update
from rtp_torch.kernels.row_groups import find_group, first_tile
from rtp_torch.kernels.tile import Tile


def tile_of(tokens: int, requests: int, head_dim: int, itemsize: int, *, narrow: bool) -> Tile:
    """As many query rows as the requests have, within what registers and shared memory hold. Columns are tokens."""
    if itemsize == 4 or (narrow and head_dim > 128):
        return Tile(32, 16, 8)
    if head_dim > 128 or tokens <= 32 * requests:
        return Tile(32, 32, 4)
    return Tile(64, 32, 8) if narrow else Tile(128, 32, 8, stages=2)


def context_attention(
    q: Tensor,
    kv: Tensor,
    block_tables: Tensor,
    context_lens: Tensor,
    query_starts: Tensor,
    *,
    scale: float,
    out: Tensor,
    narrow: bool = False,
) -> None:
    """q, out: [T, H, D]; kv: [N, 2, K, B, D], strided; block_tables: [R, blocks], context_lens: [R] int32.

    query_starts: [R + 1] int32, of a step's rows: this op's first row is query_starts[0]. Request r's rows are the last
    ones of its context_lens[r] tokens; a row sees its own token and those before it.
    """
    tokens, heads, head_dim = q.shape
    requests = block_tables.shape[0]
    if not tokens:
        return
    _, _, kv_heads, block_size, _ = kv.shape
    tile = tile_of(tokens, requests, head_dim, max(q.element_size(), kv.element_size()), narrow=narrow)
    # Each request may leave one tile half empty: that many tiles are enough, whatever the lengths are.
    grid = (triton.cdiv(tokens, tile.rows) + requests, heads)
    _attend[grid](
        q, kv, block_tables, context_lens, query_starts, out, scale * LOG2E, requests,
        q.stride(0), q.stride(1), *kv.stride()[:4], block_tables.stride(0), out.stride(0), out.stride(1),
        HEAD_DIM=head_dim, DIMS=triton.next_power_of_2(head_dim), BLOCK_SIZE=block_size, GROUP=heads // kv_heads,
        ROWS=tile.rows, TILE=tile.columns, DOT=dot_dtype(q.dtype, kv.dtype), **tile.options,
    )  # fmt: skip


@triton.jit
def _attend(
    q_ptr, kv_ptr, tables_ptr, lengths_ptr, starts_ptr, out_ptr, scale, requests,
    q_row, q_head, kv_block, kv_part, kv_head, kv_token, table_row, out_row, out_head,
    HEAD_DIM: tl.constexpr, DIMS: tl.constexpr, BLOCK_SIZE: tl.constexpr, GROUP: tl.constexpr,
    ROWS: tl.constexpr, TILE: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """One tile of one request's query rows, one head."""
    tile, head = tl.program_id(0), tl.program_id(1)
    origin = tl.load(starts_ptr)
    request = find_group(tile, starts_ptr, requests, ROWS)
    start = tl.load(starts_ptr + request) - origin
    queries = tl.load(starts_ptr + request + 1) - origin - start
    first = (tile - first_tile(start, request, ROWS)) * ROWS
    if first >= queries:
        return
    length = tl.load(lengths_ptr + request)
    rows, dims = first + tl.arange(0, ROWS), tl.arange(0, DIMS)
    positions = length - queries + rows
    is_query = (rows < queries)[:, None] & (dims < HEAD_DIM)[None, :]
    place = (start + rows).to(tl.int64)
    q = tl.load(q_ptr + place[:, None] * q_row + head * q_head + dims[None, :], mask=is_query, other=0.0).to(DOT)

    k_ptr = kv_ptr + (head // GROUP).to(tl.int64) * kv_head
    table_ptr = tables_ptr + request.to(tl.int64) * table_row
    peak, mass, total = begin(ROWS, DIMS)
    last = tl.minimum(length, length - queries + first + ROWS)
    for begins in range(0, last, TILE):
        tokens = begins + tl.arange(0, TILE)
        at = tokens_at(tokens, tokens < length, table_ptr, kv_block, kv_token, BLOCK_SIZE)
        is_kv = (tokens < length)[:, None] & (dims < HEAD_DIM)[None, :]
        k = tl.load(k_ptr + at[:, None] + dims[None, :], mask=is_kv, other=0.0).to(DOT)
        v = tl.load(k_ptr + kv_part + at[:, None] + dims[None, :], mask=is_kv, other=0.0).to(DOT)
        scores = scores_seen(q, k, scale, tokens[None, :] <= positions[:, None])
        peak, mass, total = update(scores, v, peak, mass, total)
    result = end(mass, total).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + place[:, None] * out_row + head * out_head + dims[None, :], result, mask=is_query)
