"""The devices of the tests as a plugin: entry points of a distribution that `conftest.py` makes up."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rtp_core.plugin import DeclaredOverride, DeviceConfig, DeviceInfo, Manifest, hookimpl
from rtp_torch.manifest import torch_manifest, triton_manifest

if TYPE_CHECKING:
    from rtp_core.plugin import Device

TOTAL_BYTES = 8 << 30
LAZY = replace(torch_manifest("lazy"), device_class="reference")
LAZY_GRAPHS = replace(
    LAZY,
    kind="lazy_graphs",
    overrides=(DeclaredOverride("decoder_self_attention", "lazy.decoder_self_attention"),),
)
LAZY_KERNELS = replace(triton_manifest("lazy_kernels"), device_class="reference")


class _Plugin:
    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest

    @hookimpl
    def rtp_device_manifest(self) -> Manifest:
        return self._manifest

    @hookimpl
    def rtp_device_probe(self) -> list[DeviceInfo]:
        return [DeviceInfo(f"{self._manifest.kind}:0", "torch's CPU, as late as can be", TOTAL_BYTES, TOTAL_BYTES)]

    @hookimpl
    def rtp_device_create(self, info: DeviceInfo, config: DeviceConfig) -> Device:
        from lazy_device import LazyDevice, LazyGraphsDevice, LazyKernelsDevice

        kinds = {cls.kind: cls for cls in (LazyDevice, LazyGraphsDevice, LazyKernelsDevice)}
        return kinds[self._manifest.kind](info, config)


lazy, lazy_graphs, lazy_kernels = map(_Plugin, (LAZY, LAZY_GRAPHS, LAZY_KERNELS))
