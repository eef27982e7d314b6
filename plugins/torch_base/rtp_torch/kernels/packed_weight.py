"""Quantized weights as `packed_gemm` reads them: what a tile takes lies in one piece.

Of a weight [N, K] in groups of 32 with a scale and perhaps a zero each:
- codes [steps, N, 32], a byte each. Whole codes: step s holds columns 32 s to 32 s + 31, as signed numbers from which
  the scheme's offset has been taken. Halves (4 bits): step s holds columns 64 s to 64 s + 31 in the low halves and the
  32 columns after them in the high ones; an odd last group is followed by one whose scale and zero are 0.
- scales, zeros [groups, N].
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

GROUP = 32


class PackedWeight(NamedTuple):
    """codes: int8, or uint8 where they are halves, of which the code `offset` stands for 0. columns: K."""

    codes: Tensor
    scales: Tensor
    zeros: Tensor | None
    columns: int
    offset: int

    @property
    def has_halves(self) -> bool:
        return self.codes.dtype == torch.uint8


def pack(payload: Tensor, scales: Tensor, zeros: Tensor | None, *, has_halves: bool, offset: int) -> PackedWeight:
    """The parts of a plain weight in groups of 32, value = scale * (code - offset) + zero, in this layout.

    payload: [N, groups, bytes], signed bytes only where no offset is; scales, zeros: [N, groups].
    """
    groups = payload.shape[1]
    if has_halves:
        both = torch.cat([payload & 15, payload.view(torch.uint8) >> 4], dim=2)
        if groups % 2:
            both, scales = _with_empty_group(both), _with_empty_group(scales)
            zeros = None if zeros is None else _with_empty_group(zeros)
        codes = both[:, 0::2] | (both[:, 1::2] << 4)
    else:
        codes, offset = (payload.to(torch.int16) - offset).to(torch.int8), 0
    turned = None if zeros is None else zeros.t().contiguous()
    return PackedWeight(codes.transpose(0, 1).contiguous(), scales.t().contiguous(), turned, groups * GROUP, offset)


def _with_empty_group(x: Tensor) -> Tensor:
    return torch.cat([x, torch.zeros_like(x[:, :1])], dim=1)
