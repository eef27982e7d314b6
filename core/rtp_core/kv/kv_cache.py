"""The KV cache's memory: blocks of all layers, and the view of one layer that its ops get."""

from __future__ import annotations

import numpy as np

from rtp_core import dtypes
from rtp_core.config import ModelConfig
from rtp_core.device.device import Device
from rtp_core.device.kv_layout import KVLayout
from rtp_core.dtypes import DType
from rtp_core.memory.buffer import Buffer
from rtp_core.memory.tracer import KVGrid


class KVCache:
    """N blocks [L, 2, K, B, D] of all L layers, one after the other; block b of layer l is `layers[l][b]`.

    `num_blocks` of them are for requests. `filler_block`: the one behind them, for rows of recorded steps that nobody
    asked for; None without `has_filler`.
    """

    def __init__(
        self, device: Device, config: ModelConfig, dtype: DType, num_blocks: int, *, has_filler: bool = False
    ) -> None:
        layout = device.kv_layout
        layers, heads, dim = config.num_hidden_layers, config.num_key_value_heads, config.head_dim
        self.block_size = layout.block_size
        self.num_blocks = num_blocks
        self.filler_block = num_blocks if has_filler else None
        in_all = num_blocks + has_filler
        if layout.order == "KBD":
            blocks = device.alloc((in_all, layers, 2, heads, self.block_size, dim), dtype, "kv_cache")
        else:
            blocks = device.alloc((in_all, layers, 2, self.block_size, heads, dim), dtype, "kv_cache")
            blocks = blocks.transpose(0, 1, 2, 4, 3, 5)
        self.layers: tuple[Buffer, ...] = tuple(blocks[:, layer] for layer in range(layers))  # [N, 2, K, B, D] each

        self._device, self._blocks = device, blocks

    @property
    def grid(self) -> KVGrid:
        """Where the blocks of requests are in the device's memory."""
        nbytes = self._blocks.nbytes // len(self._blocks)
        return KVGrid(self._blocks.address, self.num_blocks, nbytes, self.block_size)

    def clear(self) -> None:
        """Make all keys and values zero, for who reads them before a model has written any."""
        for layer in self.layers:
            self._device.copy(layer, Buffer.borrow(np.zeros(layer.shape, layer.dtype.numpy)))


def cache_dtype(layout: KVLayout, dtype: DType, *, is_fast: bool) -> DType:
    """What k and v are stored in: the layout's choice, or `dtype`, the activations'. `is_fast`: under dtype "auto"."""
    name = layout.fast_dtype if is_fast and layout.fast_dtype != "auto" else layout.dtype
    return dtype if name == "auto" else dtypes.parse(name)


def block_bytes(device: Device, config: ModelConfig, dtype: DType) -> int:
    """Bytes of one block: the k and v of its tokens in all layers."""
    per_layer = 2 * config.num_key_value_heads * config.head_dim * dtype.itemsize
    return device.kv_layout.block_size * config.num_hidden_layers * per_layer
