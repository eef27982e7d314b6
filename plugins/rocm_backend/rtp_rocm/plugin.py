"""The entry point: hooks only. Torch is imported when a device is created."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtp_core.plugin import DeviceConfig, DeviceInfo, Manifest, No, hookimpl
from rtp_rocm.manifest import MANIFEST

if TYPE_CHECKING:
    from rtp_core.plugin import Device


@hookimpl
def rtp_device_manifest() -> Manifest:
    return MANIFEST


@hookimpl
def rtp_device_probe() -> list[DeviceInfo] | No:
    from rtp_rocm.probe import probe

    return probe()


@hookimpl
def rtp_device_create(info: DeviceInfo, config: DeviceConfig) -> Device:
    from rtp_rocm.device import RocmDevice

    return RocmDevice(info, config)


@hookimpl
def rtp_env_report() -> dict[str, str]:
    from rtp_rocm.probe import report

    return report()
