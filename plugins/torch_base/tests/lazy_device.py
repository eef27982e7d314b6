"""A device for the tests: TorchDevice over the lazy accelerator."""

from __future__ import annotations

from typing import ClassVar

from lazy_accelerator import LazyAccelerator

from rtp_core.plugin import PLUGIN_API, DeviceConfig, DeviceInfo, Manifest
from rtp_torch.device import TorchDevice

MANIFEST = Manifest(
    kind="lazy",
    vendor="rtp",
    api=PLUGIN_API,
    device_class="reference",
    dtypes=("float32", "bfloat16", "float16"),
    schemes=("q4_0", "q4_1", "q4_k", "q5_0", "q5_1", "q5_k", "q6_k", "q8_0"),
    features=("bias", "layer_norm", "moe", "qk_norm"),
    kv_layouts=("KBD", "BKD"),
)


class LazyDevice(TorchDevice):
    manifest: ClassVar[Manifest] = MANIFEST

    def __init__(self, info: DeviceInfo, config: DeviceConfig) -> None:
        super().__init__(info, config, LazyAccelerator())
