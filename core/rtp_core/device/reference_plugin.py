"""The reference device as a plugin, through the same hooks as anybody's."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from rtp_core.device.hooks import hookimpl
from rtp_core.device.host_memory import host_memory_info
from rtp_core.device.manifest import DeviceConfig, DeviceInfo, Manifest
from rtp_core.device.reference_manifest import MANIFEST


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
