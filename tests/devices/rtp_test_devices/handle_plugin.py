"""The handle device as a plugin. Its class is "reference": `auto` never chooses it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtp_core.plugin import PLUGIN_API, DeclaredOverride, DeviceConfig, DeviceInfo, Manifest, hookimpl

if TYPE_CHECKING:
    from rtp_core.plugin import Device

TOTAL_BYTES = 8 << 30

MANIFEST = Manifest(
    kind="handle",
    vendor="rtp",
    api=PLUGIN_API,
    device_class="reference",
    dtypes=("float32", "bfloat16", "float16"),
    overrides=(DeclaredOverride("gated_activation", "handle.gated_activation", is_conditional=True),),
    schemes=("fp8_channel", "int8_channel", "q4_0", "q4_1", "q4_k", "q5_0", "q5_1", "q5_k", "q6_k", "q8_0"),
    features=("bias", "layer_norm", "moe", "qk_norm"),
)


@hookimpl
def rtp_device_manifest() -> Manifest:
    return MANIFEST


@hookimpl
def rtp_device_probe() -> list[DeviceInfo]:
    return [DeviceInfo("handle:0", "memory behind handles", TOTAL_BYTES, TOTAL_BYTES)]


@hookimpl
def rtp_device_create(info: DeviceInfo, config: DeviceConfig) -> Device:
    from rtp_test_devices.handle import HandleDevice

    return HandleDevice(info, config)
