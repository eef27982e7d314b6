"""Tensors that are read once, one after the other: a file's pages do not pile up in memory beside the weights."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping

from rtp_core.checkpoint.mapped_file import forget_pages
from rtp_core.memory.buffer import Buffer

_IN_USE = 4  # tensors: a weight is made of at most so many (q, k, v)


class PassingTensors(Mapping[str, Buffer]):
    """The same tensors; a look-up lets go of the pages of those that were looked up some time before.

    Whoever still reads those gets them again from the file, more slowly.
    """

    def __init__(self, tensors: Mapping[str, Buffer]) -> None:
        self._tensors = tensors
        self._recent: deque[Buffer] = deque()

    def __getitem__(self, name: str) -> Buffer:
        tensor = self._tensors[name]
        self._recent.append(tensor)
        if len(self._recent) > _IN_USE:
            contents = self._recent.popleft().storage.host_bytes()
            if contents is not None:
                forget_pages(contents)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)
