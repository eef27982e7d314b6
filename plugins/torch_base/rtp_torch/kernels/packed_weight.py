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

    def rows(self, start: int, stop: int) -> PackedWeight:
        zeros = None if self.zeros is None else self.zeros[:, start:stop]
        return self._replace(codes=self.codes[:, start:stop], scales=self.scales[:, start:stop], zeros=zeros)
