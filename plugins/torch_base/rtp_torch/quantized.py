"""Quantized weights over tensors: what `rtp_core.plugin.QuantScheme` says, in torch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rtp_core.plugin import QuantScheme
from rtp_torch.matmul import Unpack
from rtp_torch.scratch import Scratch

Parts = Mapping[str, Tensor]  # of a plain QBuffer, by the scheme's names: [N, ...] each


def dequantize(parts: Parts, scheme: QuantScheme, out: Tensor, scratch: Scratch) -> None:
    """out: [N, K]."""
    payload = parts["payload"]
    rows, groups, _ = payload.shape
    shape = (rows, groups, scheme.group)
    y = out.unflatten(1, shape[1:]) if out.dtype == torch.float32 else scratch(shape)
    _unpack(payload, scheme, y, scratch)
    if scheme.offset:
        y.sub_(scheme.offset)
    y.mul_(_per_group(parts, "scale", scheme, scratch).unsqueeze(-1))
    if "zeros" in parts:
        y.add_(_per_group(parts, "zero", scheme, scratch).unsqueeze(-1))
    if out.dtype != torch.float32:
        out.unflatten(1, shape[1:]).copy_(y)


def unpacking(parts: Parts, scheme: QuantScheme) -> Unpack:
    """Of a weight that stays packed."""

    def unpack(start: int, stop: int, into: Tensor, scratch: Scratch) -> None:
        dequantize({name: part[start:stop] for name, part in parts.items()}, scheme, into, scratch)

    return unpack


def _unpack(payload: Tensor, scheme: QuantScheme, codes: Tensor, scratch: Scratch) -> None:
    if scheme.packing == "whole":
        codes.copy_(payload.view(torch.int8))
        return
    half, nibbles = scheme.group // 2, scratch(payload.shape, torch.uint8)
    packed = payload.view(torch.uint8)
    codes[..., :half].copy_(torch.bitwise_and(packed, 15, out=nibbles))
    codes[..., half:].copy_(torch.bitwise_right_shift(packed, 4, out=nibbles))


def _per_group(parts: Parts, what: str, scheme: QuantScheme, scratch: Scratch) -> Tensor:
    """Scales or zeros [N, groups], with their factors; factor times number comes first, as in the definition."""
    numbers = parts[f"{what}s"]
    if not scheme.super_group:
        return numbers
    factors, wide = parts[f"{what}_factors"], scratch(numbers.shape).copy_(numbers)
    wide.unflatten(1, (factors.shape[1], scheme.super_group // scheme.group)).mul_(factors.unsqueeze(-1))
    return wide


def quantize(x: Tensor, scheme: QuantScheme) -> dict[str, Tensor]:
    """The parts of x [N, K], in memory that torch allocates: no step of a model calls this."""
    groups = x.float().unflatten(1, (x.shape[1] // scheme.group, scheme.group))
    low, high = (groups.amin(-1), groups.amax(-1)) if groups.numel() else (groups.sum(-1), groups.sum(-1))
    base = torch.zeros_like(low)
    if not scheme.symmetric:
        base = low.clamp_max(0) if scheme.super_group else low  # whole zeros have no sign
        step = (high - base) / (2**scheme.bits - 1)
    elif scheme.offset:
        step = torch.where(-low >= high, low, high) / -scheme.offset
    else:
        step = torch.maximum(-low, high) / (2 ** (scheme.bits - 1) - 1)
    numbers = {"scales": step.half(), "zeros": base.half()}
    if scheme.super_group:
        whole = (-128, 127) if scheme.symmetric else (63, 0)
        numbers["scales"], numbers["scale_factors"], step = _whole(step, scheme, *whole)
        numbers["zeros"], numbers["zero_factors"], base = _whole(base, scheme, 63, 0)
    codes = (_quotient(groups - base.unsqueeze(-1), step.unsqueeze(-1))).round() + scheme.offset
    return {"payload": _packed(codes, scheme), **{name: numbers[name] for name in scheme.part_names[1:]}}


def _packed(codes: Tensor, scheme: QuantScheme) -> Tensor:
    if scheme.bits == 8:
        return codes.clamp(-127, 127).to(torch.int8)
    whole = codes.clamp(0, 2**scheme.bits - 1).to(torch.uint8)
    if scheme.packing == "whole":
        return whole
    low, high = whole.split(scheme.group // 2, dim=-1)
    return low | (high << 4)


def _whole(numbers: Tensor, scheme: QuantScheme, extreme: int, other: int) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers [N, groups] as whole ones, their factors, and what these mean: see the reference's definition."""
    per_factor = scheme.super_group // scheme.group
    near = numbers.unflatten(1, (numbers.shape[1] // per_factor, per_factor))
    largest = near.gather(-1, near.abs().argmax(-1, keepdim=True))
    factors = (largest / extreme).half()
    codes = _quotient(near, factors.float()).round().clamp(min(extreme, other), max(extreme, other))
    stored = codes.to(torch.int8 if extreme < 0 else torch.uint8)
    return stored.flatten(1), factors.squeeze(-1), (factors.float() * codes).flatten(1)


def _quotient(x: Tensor, step: Tensor) -> Tensor:
    """x / step, and 0 where there is no step."""
    return x * torch.where(step == 0, 0, 1 / step)
