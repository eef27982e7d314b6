"""Work space of one op: torch computes into tensors of the arena, and allocates none of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from rtp_core.plugin import Buffer, DType, Shape
from rtp_torch.memory import TORCH_DTYPES

Alloc = Callable[[Shape, DType, str], Buffer]
View = Callable[[Buffer], Tensor]

_DTYPES: Mapping[torch.dtype, DType] = {theirs: ours for ours, theirs in TORCH_DTYPES.items()}


class Scratch:
    """Gives tensors, which are the op's until this goes. Later work on the same stream may then lie over them."""

    def __init__(self, alloc: Alloc, view: View, tag: str) -> None:
        self._alloc, self._view, self._tag = alloc, view, tag
        self._held: list[Buffer] = []

    def __call__(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Contents undefined."""
        self._held.append(self._alloc(tuple(shape), _DTYPES[dtype], self._tag))
        return self._view(self._held[-1])

    def fresh(self) -> Scratch:
        """For one part of an op, whose work space is given back before the next part runs."""
        return Scratch(self._alloc, self._view, self._tag)
