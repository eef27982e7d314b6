"""Attention over blocked KV: the metadata of a step as the kernels want it. Nothing is gathered or masked in Python."""

from __future__ import annotations

from typing import NamedTuple

from rtp_core.plugin import AttentionBatch, Buffer, Device, dtypes
from rtp_cpu._native import lib
from rtp_cpu.native import DTYPES, Native, mismatch, pointer
from rtp_cpu.views import has_contiguous_rows

Lengths = tuple[int, ...]


class _Part(NamedTuple):
    """The requests of a step that one kernel serves. `starts` is None where each has one query token."""

    op: str
    tokens: int
    requests: int
    block_tables: Buffer
    lengths: Buffer
    starts: Buffer | None


def decode(
    device: Device, native: Native, q: Buffer, kv: Buffer, batch: AttentionBatch, scale: float, out: Buffer | None
) -> Buffer:
    """The decode requests, which come first. q, out: [num_decode, H, D]."""
    n = batch.num_decode
    part = _Part("decoder_self_attention", n, n, batch.block_tables, batch.device_context_lens, None)
    return _run(device, native, q, kv, part, scale, out)


def context(
    device: Device, native: Native, q: Buffer, kv: Buffer, batch: AttentionBatch, scale: float, out: Buffer | None
) -> Buffer:
    """The prefill requests, which come last. q, out: [their tokens, H, D]."""
    first = batch.num_decode
    tables, lengths = batch.block_tables[first:], batch.device_context_lens[first:]
    tokens = batch.num_tokens - int(batch.query_starts[first])
    starts = batch.device_query_starts[first:]
    part = _Part("context_attention", tokens, batch.num_requests - first, tables, lengths, starts)
    return _run(device, native, q, kv, part, scale, out)


def within(device: Device, native: Native, q: Buffer, k: Buffer, v: Buffer, lengths: Lengths, scale: float) -> Buffer:
    """Every token attends to all of its request: [T, H, D]. q: [T, H, D]; k, v: [T, K, D], heads without gaps."""
    tokens, heads, dim = q.shape
    if not all(x.dtype is q.dtype and x.strides[1:] == (dim, 1) for x in (q, k, v)) or sum(lengths) != tokens:
        raise mismatch("encoder_attention", q, k, v)
    out = device.alloc(q.shape, q.dtype, "attention")
    tensors = DTYPES[q.dtype], pointer(out), pointer(q), pointer(k), pointer(v)
    sizes = len(lengths), heads, k.shape[1], dim, out.strides[0], q.strides[0], k.strides[0], v.strides[0]
    if status := lib.rtp_cpu_encoder_attention(native.handle, *tensors, *native.spans(lengths), *sizes, scale):
        native.fail(status, "encoder_attention", q, k, v)
    return out


def _run(
    device: Device, native: Native, q: Buffer, kv: Buffer, part: _Part, scale: float, out: Buffer | None
) -> Buffer:
    if out is None:
        out = device.alloc(q.shape, q.dtype, part.op)
    if out.dtype is not q.dtype or not has_contiguous_rows(q) or not has_contiguous_rows(out):
        wide = device.cast(q, dtypes.float32)
        return device.cast(_run(device, native, wide, kv, part, scale, None), out.dtype, out=out)
    tables = part.block_tables
    if q.shape != (part.tokens, q.shape[1], kv.shape[4]) or out.shape != q.shape or tables.strides[-1] != 1:
        raise mismatch(part.op, q, kv, tables, out)
    tensors = native.kv(kv), DTYPES[q.dtype], pointer(out), pointer(q)
    requests = pointer(tables), tables.strides[0], pointer(part.lengths)
    sizes = part.requests, q.shape[1], *out.strides[:2], *q.strides[:2]
    if part.starts is None:
        status = lib.rtp_cpu_decode_attention(native.handle, *tensors, *requests, *sizes, scale)
    else:
        status = lib.rtp_cpu_context_attention(native.handle, *tensors, *requests, pointer(part.starts), *sizes, scale)
    if status:
        native.fail(status, part.op, q, kv, tables)
    return out
