"""The recording device as a plugin. Its class is "reference": `auto` never chooses it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtp_core.plugin import PLUGIN_API, DeviceConfig, DeviceInfo, Manifest, hookimpl

if TYPE_CHECKING:
    from rtp_core.plugin import Device

TOTAL_BYTES = 1 << 40  # imaginary bytes cost nothing

MANIFEST = Manifest(
    kind="recorder",
    vendor="rtp",
    api=PLUGIN_API,
    device_class="reference",
    dtypes=("float32", "bfloat16", "float16"),
    schemes=("q4_0", "q4_1", "q8_0"),
    features=("bias", "layer_norm", "moe", "qk_norm"),
)


@hookimpl
def rtp_device_manifest() -> Manifest:
    return MANIFEST


@hookimpl
def rtp_device_probe() -> list[DeviceInfo]:
    return [DeviceInfo("recorder:0", "records calls, computes nothing", TOTAL_BYTES, TOTAL_BYTES)]


@hookimpl
def rtp_device_create(info: DeviceInfo, config: DeviceConfig) -> Device:
    from rtp_test_devices.recorder import RecorderDevice

    return RecorderDevice(info, config)
