"""The entry point: hooks only. Nothing native loads before the probe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtp_core.plugin import DeviceConfig, DeviceInfo, Manifest, hookimpl, host_memory_info
from rtp_cpu.manifest import MANIFEST

if TYPE_CHECKING:
    from rtp_core.plugin import Device


@hookimpl
def rtp_device_manifest() -> Manifest:
    return MANIFEST


@hookimpl
def rtp_device_probe() -> list[DeviceInfo]:
    from rtp_cpu.isa import chosen_isa
    from rtp_cpu.processor import processor_name, usable_threads

    total, free = host_memory_info()
    return [DeviceInfo("cpu:0", f"{processor_name()}, {usable_threads()} threads, {chosen_isa()}", total, free)]


@hookimpl
def rtp_device_create(info: DeviceInfo, config: DeviceConfig) -> Device:
    from rtp_cpu.device import CpuDevice
    from rtp_cpu.isa import chosen_isa

    return CpuDevice(info, config, chosen_isa())


@hookimpl
def rtp_env_report() -> dict[str, str]:
    from rtp_cpu.isa import available_isas, chosen_isa
    from rtp_cpu.processor import processor_name, usable_threads

    return {
        "processor": processor_name(),
        "usable threads": str(usable_threads()),
        "instruction sets": ", ".join(available_isas()),
        "chosen": chosen_isa(),
    }
