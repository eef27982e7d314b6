"""A model's weights without their contents: what loading would make of a checkpoint's header."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtp_core import dtypes
from rtp_core.config import ModelConfig
from rtp_core.dtypes import DType
from rtp_core.memory.buffer import Buffer
from rtp_core.memory.outline import outline
from rtp_core.memory.qbuffer import QBuffer, QuantScheme
from rtp_core.models.weight_reader import WeightReader


class WeightSketch(WeightReader):
    """The reader that a plan is told from. Its buffers have shape, dtype and scheme, and no memory."""

    def upload(self, array: NDArray[Any], tag: str) -> Buffer:
        return outline(array.shape, dtypes.parse(array.dtype.name))

    def rope_tables(
        self, config: ModelConfig, num_positions: int, factors: NDArray[np.float32] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        table = np.empty((num_positions, config.head_dim // 2), np.float32)
        return table, table

    def _host_vector(self, name: str, size: int) -> NDArray[Any]:
        self._take(name, (size,))
        return np.empty(size, self._precision.dtype.numpy)

    def _host_rows(self, name: str, shape: tuple[int, int], num: int) -> NDArray[np.float32]:
        self._take(name, shape)
        return np.zeros((num, shape[1]), np.float32)

    def _convert(self, tensor: Buffer, form: DType | QuantScheme, name: str) -> Buffer:
        return outline(tensor.shape, form)

    def _prepare(self, matrices: list[Buffer], tag: str) -> Buffer:
        return self._merged(matrices)

    def _merged(self, matrices: list[Buffer]) -> Buffer:
        first = matrices[0]
        form = first.scheme if isinstance(first, QBuffer) else first.dtype
        return outline((sum(m.shape[0] for m in matrices), first.shape[1]), form)
