"""The recording device as a plugin. Its class is "reference": `auto` never chooses it."""

from __future__ import annotations

from rtp_core.plugin import Device, DeviceConfig, DeviceInfo, Manifest, hookimpl
from rtp_test_devices.recorder import MANIFEST, TOTAL_BYTES, RecorderDevice


@hookimpl
def rtp_device_manifest() -> Manifest:
    return MANIFEST


@hookimpl
def rtp_device_probe() -> list[DeviceInfo]:
    return [DeviceInfo("recorder:0", "records calls, computes nothing", TOTAL_BYTES, TOTAL_BYTES)]


@hookimpl
def rtp_device_create(info: DeviceInfo, config: DeviceConfig) -> Device:
    return RecorderDevice(info, config)
