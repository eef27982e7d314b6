"""The reference device as a plugin, through the same hooks as anybody's."""

from __future__ import annotations

import numpy as np

from rtp_core.device.device import Device
from rtp_core.device.hooks import hookimpl
from rtp_core.device.manifest import DeviceConfig, DeviceInfo, Manifest
from rtp_core.device.reference import MANIFEST, ReferenceDevice
from rtp_core.device.services import host_memory_info


@hookimpl
def rtp_device_manifest() -> Manifest:
    return MANIFEST


@hookimpl
def rtp_device_probe() -> list[DeviceInfo]:
    total, free = host_memory_info()
    return [DeviceInfo("ref:0", f"NumPy {np.__version__} reference", total, free)]


@hookimpl
def rtp_device_create(info: DeviceInfo, config: DeviceConfig) -> Device:
    return ReferenceDevice(info, config)
