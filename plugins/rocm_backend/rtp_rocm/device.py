"""The device: all of it is the base's, on a GPU of AMD's."""

from __future__ import annotations

from typing import ClassVar

from rtp_core.plugin import DeviceConfig, DeviceInfo, Manifest
from rtp_rocm.manifest import MANIFEST
from rtp_torch.gpu import Gpu
from rtp_torch.triton_device import TritonDevice


class RocmDevice(TritonDevice):
    manifest: ClassVar[Manifest] = MANIFEST

    def __init__(self, info: DeviceInfo, config: DeviceConfig) -> None:
        super().__init__(info, config, Gpu(info.index))
