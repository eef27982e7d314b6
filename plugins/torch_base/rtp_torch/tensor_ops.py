"""Primitives over tensors: into `out`, with work space that is asked for.

Letters and meaning as in `rtp_core.plugin.Device`. Floats compute in float32: where torch would round in between, the
operands are widened first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from rtp_torch.scratch import Scratch

_LEAST = torch.finfo(torch.float32).min
_TINY = torch.finfo(torch.float32).tiny

_ACTIVATIONS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gelu": lambda x, out: torch.ops.aten.gelu.out(x, approximate="none", out=out),
    "gelu_tanh": lambda x, out: torch.ops.aten.gelu.out(x, approximate="tanh", out=out),
    "relu": lambda x, out: torch.clamp_min(x, 0, out=out),
    "sigmoid": lambda x, out: torch.sigmoid(x, out=out),
    "silu": lambda x, out: torch.ops.aten.silu.out(x, out=out),
    "tanh": lambda x, out: torch.tanh(x, out=out),
}
ACTIVATIONS = tuple(_ACTIVATIONS)


def widened(x: Tensor, scratch: Scratch) -> Tensor:
    """x in float32."""
    return x if x.dtype == torch.float32 else scratch(x.shape).copy_(x)


def rows(table: Tensor, ids: Tensor, scratch: Scratch) -> Tensor:
    """table[ids], as work space."""
    return torch.index_select(table, 0, ids, out=scratch((len(ids), *table.shape[1:]), table.dtype))


def gather_rows(table: Tensor, ids: Tensor, out: Tensor, scratch: Scratch) -> None:
    if table.dtype == out.dtype:
        torch.index_select(table, 0, ids, out=out)
    else:
        out.copy_(rows(table, ids, scratch))


def elementwise(op: Callable[..., Tensor], a: Tensor, b: Tensor, out: Tensor, scratch: Scratch) -> None:
    """out = op(a, b), b broadcast. Torch computes in the wider dtype of a and b, and rounds to that first."""
    op(widened(a, scratch) if a.dtype == b.dtype != out.dtype else a, b, out=out)


def rms_norm(x: Tensor, weight: Tensor, eps: float, out: Tensor, scratch: Scratch) -> None:
    y, normed = widened(x, scratch), scratch(x.shape)
    _scaled(y, torch.mul(y, y, out=normed), weight, eps, scratch)
    out.copy_(normed)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, out: Tensor, scratch: Scratch) -> None:
    y, centred, normed = widened(x, scratch), scratch(x.shape), scratch(x.shape)
    torch.sub(y, torch.mean(y, -1, keepdim=True, out=scratch((*x.shape[:-1], 1))), out=centred)
    _scaled(centred, torch.mul(centred, centred, out=normed), weight, eps, scratch)
    out.copy_(normed.add_(bias))


def _scaled(y: Tensor, squares: Tensor, weight: Tensor, eps: float, scratch: Scratch) -> None:
    """y / sqrt(mean(squares) + eps) * weight, over `squares`."""
    power = torch.mean(squares, -1, keepdim=True, out=scratch((*y.shape[:-1], 1)))
    torch.mul(y, power.add_(eps).rsqrt_(), out=squares).mul_(weight)


def activation(x: Tensor, kind: str, out: Tensor, scratch: Scratch) -> None:
    _ACTIVATIONS[kind](x if x.dtype == out.dtype else widened(x, scratch), out)


def softmax(x: Tensor, scale: float, softcap: float | None, mask: Tensor | None, out: Tensor, scratch: Scratch) -> None:
    if not x.numel():
        return
    y = torch.mul(widened(x, scratch), scale, out=scratch(x.shape))
    if softcap is not None:
        y.div_(softcap).tanh_().mul_(softcap)
    if mask is not None:
        y.add_(mask)
    per_row = (*x.shape[:-1], 1)
    # The floors keep a row of -inf finite: its sum is zero, and so is the row.
    y.sub_(torch.amax(y, -1, keepdim=True, out=scratch(per_row)).clamp_min_(_LEAST)).exp_()
    out.copy_(y.div_(torch.sum(y, -1, keepdim=True, out=scratch(per_row)).clamp_min_(_TINY)))


def rope(x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor, out: Tensor, scratch: Scratch) -> None:
    n, per_token = cos.shape[1], (len(positions), cos.shape[1])
    c = torch.index_select(cos, 0, positions, out=scratch(per_token)).unsqueeze(1)
    s = torch.index_select(sin, 0, positions, out=scratch(per_token)).unsqueeze(1)
    first, second = x[..., :n], x[..., n : 2 * n]
    turned, product = scratch((2, *first.shape)), scratch(first.shape)
    torch.mul(first, c, out=turned[0]).sub_(torch.mul(second, s, out=product))
    torch.mul(second, c, out=turned[1]).add_(torch.mul(first, s, out=product))
    out[..., :n].copy_(turned[0])
    out[..., n : 2 * n].copy_(turned[1])
    out[..., 2 * n :].copy_(x[..., 2 * n :])


def kv_write(kv: Tensor, k: Tensor, v: Tensor, slots: Tensor, scratch: Scratch) -> None:
    block_size = kv.shape[3]
    block = torch.div(slots, block_size, rounding_mode="floor", out=scratch(slots.shape, torch.int64))
    offset = torch.remainder(slots, block_size, out=scratch(slots.shape, torch.int64))
    tokens = kv.permute(0, 3, 1, 2, 4)  # [N, B, 2, K, D]
    for which, x in enumerate((k, v)):
        stored = x if x.dtype == kv.dtype else scratch(x.shape, kv.dtype).copy_(x)
        tokens[:, :, which].index_put_((block, offset), stored)


def kv_gather(kv: Tensor, block_table: Tensor, k: Tensor, v: Tensor, scratch: Scratch) -> None:
    block_size = kv.shape[3]
    whole, rest = divmod(k.shape[1], block_size)
    count = whole + (rest > 0)
    blocks = rows(kv, block_table[:count], scratch)
    for which, out in enumerate((k, v)):
        split = whole * block_size
        out[:, :split].unflatten(1, (whole, block_size)).copy_(blocks[:whole, which].transpose(0, 1))
        if rest:
            out[:, split:].copy_(blocks[whole, which, :, :rest])


def top_k(x: Tensor, values: Tensor, indices: Tensor, scratch: Scratch) -> None:
    """All of a row is sorted: torch.topk says nothing about equals."""
    ordered, order = scratch(x.shape, x.dtype), scratch(x.shape, torch.int64)
    torch.sort(x, stable=True, dim=-1, descending=True, out=(ordered, order))
    values.copy_(ordered[:, : values.shape[1]])
    indices.copy_(order[:, : values.shape[1]])
