"""Devices for the tests over the lazy accelerator: op by op, with decode steps that need no host, and with kernels."""

from __future__ import annotations

from typing import ClassVar, TypeVar

import torch
from lazy_accelerator import LazyAccelerator
from lazy_plugin import LAZY, LAZY_GRAPHS, LAZY_KERNELS

from rtp_core.plugin import AttentionBatch, Buffer, DeviceConfig, DeviceInfo, Manifest, overrides
from rtp_torch.device import TorchDevice
from rtp_torch.triton_device import TritonDevice


class LazyDevice(TorchDevice):
    manifest: ClassVar[Manifest] = LAZY

    def __init__(self, info: DeviceInfo, config: DeviceConfig) -> None:
        super().__init__(info, config, LazyAccelerator())


class LazyGraphsDevice(LazyDevice):
    manifest: ClassVar[Manifest] = LAZY_GRAPHS

    @overrides("decoder_self_attention", impl="lazy.decoder_self_attention")
    def _decoder_self_attention(
        self, q: Buffer, kv: Buffer, batch: AttentionBatch, *, scale: float, out: Buffer | None = None
    ) -> Buffer:
        """Over all blocks of the tables, masked by the lengths on the device."""
        out = self.alloc(q.shape, q.dtype, "decoder_self_attention") if out is None else out
        decodes, heads, dim = q.shape
        tables = self._see(batch.block_tables)[:decodes]
        blocks = self._see(kv).index_select(0, tables.flatten()).unflatten(0, tables.shape)  # [R, n, 2, K, B, D]
        k, v = (blocks[:, :, i].permute(0, 2, 1, 3, 4).flatten(2, 3).float() for i in (0, 1))  # [R, K, S, D]
        grouped = self._see(q).float().unflatten(1, (k.shape[1], heads // k.shape[1]))
        lengths = self._see(batch.device_context_lens)[:decodes].view(-1, 1, 1, 1)
        positions = (torch.ones_like(k[:1, 0, :, 0]).cumsum(-1) - 1).view(1, 1, 1, -1)
        is_past = positions >= lengths  # nothing was written there: it may hold NaN
        scores = (grouped @ k.mT * scale).masked_fill(is_past, float("-inf"))
        attended = scores.softmax(-1) @ v.masked_fill(is_past.mT, 0)
        self._see(out).copy_(attended.view(decodes, heads, dim))
        return out


class LazyKernelsDevice(TritonDevice):
    manifest: ClassVar[Manifest] = LAZY_KERNELS

    def __init__(self, info: DeviceInfo, config: DeviceConfig) -> None:
        super().__init__(info, config, LazyAccelerator())


D = TypeVar("D", LazyDevice, LazyKernelsDevice)


def open_device(cls: type[D], budget: int) -> D:
    return cls(DeviceInfo(f"{cls.kind}:0", cls.__name__, budget, budget), DeviceConfig(memory_budget=budget))
