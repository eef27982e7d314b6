"""Quantized weights over tensors: what `rtp_core.plugin.QuantScheme` says, in torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from rtp_core.plugin import QuantScheme
from rtp_torch.matmul import Unpack
from rtp_torch.memory import TORCH_DTYPES
from rtp_torch.scratch import Scratch
from rtp_torch.tensor_ops import rows


@dataclass(frozen=True, slots=True)
class StoredWeight:
    """A weight [N, K] as it is stored. parts: those of a plain QBuffer, by the scheme's names, [N, ...] each.

    The payload is bytes, of any dtype that has them.
    """

    scheme: QuantScheme
    parts: Mapping[str, Tensor]

    def rows(self, start: int, stop: int) -> Self:
        return replace(self, parts={name: part[start:stop] for name, part in self.parts.items()})

    def chosen(self, ids: Tensor, scratch: Scratch) -> Self:
        """Rows `ids`, as work space."""
        return replace(self, parts={name: rows(part, ids, scratch) for name, part in self.parts.items()})

    def dequantize(self, out: Tensor, scratch: Scratch) -> None:
        """out: [N, K]."""
        shape = self.scheme.grouped(*out.shape)
        y = out.unflatten(1, shape[1:]) if out.dtype == torch.float32 else scratch(shape)
        self._unpack(y, scratch)
        if self.scheme.offset:
            y.sub_(self.scheme.offset)
        y.mul_(self._per_group("scale", scratch).unsqueeze(-1))
        if "zeros" in self.parts:
            y.add_(self._per_group("zero", scratch).unsqueeze(-1))
        if out.dtype != torch.float32:
            out.unflatten(1, shape[1:]).copy_(y)

    @property
    def num_rows(self) -> int:
        return len(self.parts["scales"])

    def row_codes(self) -> Tensor | None:
        """The codes [N, K], where each row has one scale."""
        if self.scheme.group:
            return None
        return self.parts["payload"].view(TORCH_DTYPES[self.scheme.code_dtype]).squeeze(1)

    def _unpack(self, codes: Tensor, scratch: Scratch) -> None:
        """codes: [N, groups, group]."""
        payload, half = self.parts["payload"], self.scheme.group // 2
        if self.scheme.packing == "whole":
            codes.copy_(payload.view(TORCH_DTYPES[self.scheme.code_dtype]))
        else:
            write_halves(payload, codes[..., :half], codes[..., half:], scratch)

    def _per_group(self, what: str, scratch: Scratch) -> Tensor:
        """Scales or zeros [N, groups], with their factors; factor times number comes first, as in the definition."""
        scheme, numbers = self.scheme, self.parts[f"{what}s"]
        if not scheme.super_group:
            return numbers
        factors, wide = self.parts[f"{what}_factors"], scratch(numbers.shape).copy_(numbers)
        wide.unflatten(1, (factors.shape[1], scheme.super_group // scheme.group)).mul_(factors.unsqueeze(-1))
        return wide


def unpacking(weight: StoredWeight) -> Unpack:
    """Of a weight that stays packed."""

    def unpack(start: int, stop: int, into: Tensor, scratch: Scratch) -> None:
        weight.rows(start, stop).dequantize(into, scratch)

    return unpack


def write_halves(packed: Tensor, low: Tensor, high: Tensor, scratch: Scratch) -> None:
    """What each byte has in its lower and in its upper four bits; upper ones past the end of `high` are nobody's."""
    packed, nibbles = packed.view(torch.uint8), scratch(packed.shape, torch.uint8)
    low.copy_(torch.bitwise_and(packed, 15, out=nibbles))
    high.copy_(torch.bitwise_right_shift(packed, 4, out=nibbles)[:, : high.shape[1]])


def quantize(x: Tensor, scheme: QuantScheme) -> dict[str, Tensor]:
    """The parts of x [N, K], in memory that torch allocates: no step of a model calls this."""
    groups = x.float().unflatten(1, scheme.grouped(*x.shape)[1:])
    low, high = (groups.amin(-1), groups.amax(-1)) if groups.numel() else (groups.sum(-1), groups.sum(-1))
    base = torch.zeros_like(low)
    if not scheme.symmetric:
        base = low.clamp_max(0) if scheme.super_group else low  # whole zeros have no sign
        step = (high - base) / (2**scheme.bits - 1)
    elif scheme.offset:
        step = torch.where(-low >= high, low, high) / -scheme.offset
    else:
        step = torch.maximum(-low, high) / scheme.largest_code
    numbers = {name: y.to(TORCH_DTYPES[scheme.scale_dtype]) for name, y in (("scales", step), ("zeros", base))}
    if scheme.super_group:
        whole = (-128, 127) if scheme.symmetric else (63, 0)
        numbers["scales"], numbers["scale_factors"], step = _whole(step, scheme, *whole)
        numbers["zeros"], numbers["zero_factors"], base = _whole(base, scheme, 63, 0)
    exact = _quotient(groups - base.unsqueeze(-1), step.unsqueeze(-1))
    codes = (exact if scheme.code_dtype.is_floating else exact.round()) + scheme.offset
    return {"payload": _packed(codes, scheme), **{name: numbers[name] for name in scheme.part_names[1:]}}


def _packed(codes: Tensor, scheme: QuantScheme) -> Tensor:
    if scheme.bits == 8:
        return codes.clamp(-scheme.largest_code, scheme.largest_code).to(TORCH_DTYPES[scheme.code_dtype])
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
