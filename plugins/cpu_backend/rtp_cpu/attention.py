"""Attention over blocked KV: the metadata of a step as the kernels want it. Nothing is gathered or masked in Python."""

from __future__ import annotations

from typing import Any

from rtp_core.plugin import AttentionBatch, Buffer, Device, dtypes
from rtp_cpu._native import lib
from rtp_cpu.native import DTYPES, Native, fail, mismatch, pointer
from rtp_cpu.views import has_contiguous_rows


def decode(
    device: Device, native: Native, q: Buffer, kv: Buffer, batch: AttentionBatch, scale: float, out: Buffer | None
) -> Buffer:
    """The decode requests, which come first. q, out: [num_decode, H, D]."""
    return _run(device, native, q, kv, batch, scale, out, is_decode=True)


def context(
    device: Device, native: Native, q: Buffer, kv: Buffer, batch: AttentionBatch, scale: float, out: Buffer | None
) -> Buffer:
    """The prefill requests, which come last. q, out: [their tokens, H, D]."""
    return _run(device, native, q, kv, batch, scale, out, is_decode=False)


def _run(
    device: Device, native: Native, q: Buffer, kv: Buffer, batch: AttentionBatch, scale: float, out: Buffer | None, *,
    is_decode: bool,
) -> Buffer:  # fmt: skip
    name = "decoder_self_attention" if is_decode else "context_attention"
    if out is None:
        out = device.alloc(q.shape, q.dtype, name)
    if out.dtype is not q.dtype or not has_contiguous_rows(q) or not has_contiguous_rows(out):
        wide = device.alloc(q.shape, dtypes.float32, name)
        device.cast(q, dtypes.float32, out=wide)
        device.cast(_run(device, native, wide, kv, batch, scale, None, is_decode=is_decode), out.dtype, out=out)
        return out
    first = 0 if is_decode else batch.num_decode
    requests = batch.num_decode if is_decode else batch.num_requests - first
    tokens = batch.num_decode if is_decode else batch.num_tokens - int(batch.query_starts[first])
    if q.shape != (tokens, q.shape[1], kv.shape[4]) or out.shape != q.shape or batch.block_tables.strides[-1] != 1:
        raise mismatch(name, q, kv, batch.block_tables, out)
    lengths = batch.device_context_lens[first:]
    tables: tuple[Any, ...] = (pointer(batch.block_tables[first:]), batch.block_tables.strides[0], pointer(lengths))
    sizes = (requests, q.shape[1], *out.strides[:2], *q.strides[:2], scale)
    view, code = native.kv(kv), DTYPES[q.dtype]
    if is_decode:
        status = lib.rtp_cpu_decode_attention(native.handle, view, code, pointer(out), pointer(q), *tables, *sizes)
    else:
        starts = pointer(batch.device_query_starts[first:])
        status = lib.rtp_cpu_context_attention(
            native.handle, view, code, pointer(out), pointer(q), *tables, starts, *sizes
        )
    if status:
        fail(status, name, q, kv, batch.block_tables)
    return out
