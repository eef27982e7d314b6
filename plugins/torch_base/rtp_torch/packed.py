"""Quantized weights in the layout of `kernels/packed_weight.py`: made once, at load, and read by every op."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from rtp_core.plugin import DType, QuantScheme, Shape, dtypes
from rtp_torch.kernels.packed_weight import GROUP, PackedWeight
from rtp_torch.quantized import StoredWeight, write_halves
from rtp_torch.scratch import Scratch

LAYOUT = "packed"


def fits(scheme: QuantScheme) -> bool:
    """Groups of the layout's size, with a scale of their own and perhaps a zero."""
    return scheme.group == GROUP and not scheme.super_group


def forms(scheme: QuantScheme, rows: int, columns: int) -> Mapping[str, tuple[Shape, DType]]:
    """Shape and dtype of each part of a packed matrix [rows, columns], by the scheme's names."""
    groups = steps = columns // GROUP
    codes = dtypes.int8
    if scheme.packing == "halves":
        steps = -(-groups // 2)
        groups, codes = 2 * steps, dtypes.uint8
    numbers = {name: ((groups, rows), dtypes.float16) for name in scheme.part_names[1:]}
    return {"payload": ((steps, rows, GROUP), codes), **numbers}


def weight_of(scheme: QuantScheme, columns: int, parts: Mapping[str, Tensor]) -> PackedWeight:
    """What kernels take."""
    offset = scheme.offset if scheme.packing == "halves" else 0
    return PackedWeight(parts["payload"], parts["scales"], parts.get("zeros"), columns, offset)


def pack(plain: StoredWeight, into: PackedWeight, scratch: Scratch) -> None:
    """Write a plain weight's rows over the rows of a packed one."""
    payload, codes = plain.parts["payload"], into.codes.transpose(0, 1)
    if into.has_halves:
        _pair(payload.view(torch.uint8), codes, scratch)
    else:
        torch.sub(payload.view(torch.int8), plain.scheme.offset, out=codes)
    _turn(plain.parts["scales"], into.scales)
    if into.zeros is not None:
        _turn(plain.parts["zeros"], into.zeros)


def _pair(payload: Tensor, codes: Tensor, scratch: Scratch) -> None:
    """Bytes with halves of one group each, [N, groups, 16], as bytes with one of either of two, [N, steps, 32]."""
    first, second = payload[:, 0::2], payload[:, 1::2]
    lower, upper = codes.tensor_split(2, -1)
    torch.bitwise_and(first, 15, out=lower)
    torch.bitwise_right_shift(first, 4, out=upper)
    pairs, lifted = second.shape[1], scratch(second.shape, torch.uint8)
    lower[:, :pairs].bitwise_or_(torch.bitwise_left_shift(second, 4, out=lifted))
    upper[:, :pairs].bitwise_or_(torch.bitwise_and(second, 240, out=lifted))


def _turn(numbers: Tensor, to: Tensor) -> None:
    """to[group, row] = numbers[row, group], and 0 for the empty group that makes their number even."""
    groups = numbers.shape[1]
    to[:groups].copy_(numbers.t())
    to[groups:].zero_()


class PackedRows(StoredWeight):
    """A packed weight seen row by row: parts [N, ...], of which the payload is codes [N, steps, 32]."""

    __slots__ = ()

    @classmethod
    def of(cls, weight: PackedWeight, scheme: QuantScheme) -> PackedRows:
        groups = weight.columns // GROUP
        parts = {"payload": weight.codes.transpose(0, 1), "scales": weight.scales[:groups].t()}
        if weight.zeros is not None:
            parts["zeros"] = weight.zeros[:groups].t()
        return cls(replace(scheme, offset=weight.offset), parts)

    def _unpack(self, codes: Tensor, scratch: Scratch) -> None:
        payload = self.parts["payload"]
        if self.scheme.packing == "whole":
            codes.copy_(payload)
        else:
            write_halves(payload, codes[:, 0::2], codes[:, 1::2], scratch)
