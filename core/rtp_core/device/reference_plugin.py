"""The reference device as a plugin, through the same hooks as anybody's."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from rtp_core.device.hooks import hookimpl
from rtp_core.device.host_memory import host_memory_info
from rtp_core.device.manifest import PLUGIN_API, DeviceConfig, DeviceInfo, Manifest

MANIFEST = Manifest(
    kind="ref",
    vendor="rtp",
    api=PLUGIN_API,
    device_class="reference",
    dtypes=("float32", "bfloat16", "float16"),
    schemes=("fp8_channel", "int8_channel", "q4_0", "q4_1", "q4_k", "q5_0", "q5_1", "q5_k", "q6_k", "q8_0"),
    features=("bias", "layer_norm", "moe", "qk_norm"),
)


@hookimpl
def rtp_device_manifest() -> Manifest:
    return MANIFEST


@hookimpl
def rtp_device_probe() -> list[DeviceInfo]:
    total, free = host_memory_info()
    return [DeviceInfo("ref:0", f"NumPy {version('numpy')} reference", total, free)]


@hookimpl
def rtp_device_create(info: DeviceInfo, config: DeviceConfig) -> Any:
    from rtp_core.device.reference import ReferenceDevice

    return ReferenceDevice(info, config)
