"""The entry point: hooks only. The device's module loads when a device is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtp_core.plugin import DeviceConfig, DeviceInfo, Manifest, hookimpl

if TYPE_CHECKING:
    from rtp_core.plugin import Device

MEMORY_BYTES = 4 << 30
MANIFEST = Manifest(
    kind="handheld",
    vendor="handheld",
    api=(1, 0),
    device_class="reference",  # it is slow: `--device auto` leaves it alone
    dtypes=("float32", "bfloat16", "float16"),
    schemes=("q4_0", "q4_1", "q8_0"),
    features=("bias", "layer_norm", "moe", "qk_norm"),
)


@hookimpl
def rtp_device_manifest() -> Manifest:
    return MANIFEST


@hookimpl
def rtp_device_probe() -> list[DeviceInfo]:
    return [DeviceInfo("handheld:0", "simulated card", MEMORY_BYTES, MEMORY_BYTES)]


@hookimpl
def rtp_device_create(info: DeviceInfo, config: DeviceConfig) -> Device:
    from rtp_handheld.device import HandheldDevice

    return HandheldDevice(info, config)
