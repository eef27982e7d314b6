"""A model's weights as they will lie in a device's memory, before any is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from rtp_core import dtypes
from rtp_core.device.device import Device
from rtp_core.device.services import Services
from rtp_core.memory.buffer import Buffer
from rtp_core.models.weight_reader import Precision
from rtp_core.models.weight_sketch import WeightSketch


class WeightRehearsal(WeightSketch):
    """The reader for a device that rehearses: it gets weights without contents to prepare.

    prepares: False for a device that does not rehearse: its weights stay in the layout they are stored in.
    """

    def __init__(
        self, device: Device, header: Mapping[str, Buffer], precision: Precision, where: str, *, prepares: bool
    ) -> None:
        super().__init__(header, precision, device.manifest, where)
        self._device, self._prepares = device, prepares

    def upload(self, array: NDArray[Any], tag: str) -> Buffer:
        return self._device.alloc(array.shape, dtypes.of_numpy(array.dtype), tag)

    def _prepare(self, matrices: list[Buffer], tag: str) -> Buffer:
        merged = self._merged(matrices)
        return (
            self._device.prepare_weight(merged, tag)
            if self._prepares
            else Services.prepare_weight(self._device, merged, tag)
        )
