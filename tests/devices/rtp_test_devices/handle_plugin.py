"""The handle device as a plugin. Its class is "reference": `auto` never chooses it."""

from __future__ import annotations

from rtp_core.plugin import Device, DeviceConfig, DeviceInfo, Manifest, hookimpl
from rtp_test_devices.handle import MANIFEST, TOTAL_BYTES, HandleDevice


@hookimpl
def rtp_device_manifest() -> Manifest:
    return MANIFEST


@hookimpl
def rtp_device_probe() -> list[DeviceInfo]:
    return [DeviceInfo("handle:0", "memory behind handles", TOTAL_BYTES, TOTAL_BYTES)]


@hookimpl
def rtp_device_create(info: DeviceInfo, config: DeviceConfig) -> Device:
    return HandleDevice(info, config)
