"""The KV cache's memory: blocks of all layers, and the view of one layer that its ops get."""

from __future__ import annotations

from rtp_core import dtypes
from rtp_core.config import ModelConfig
from rtp_core.device.device import Device
from rtp_core.dtypes import DType
from rtp_core.errors import OutOfMemoryError
from rtp_core.memory.buffer import Buffer


class KVCache:
    """N blocks [L, 2, K, B, D] of all L layers, one after the other; block b of layer l is `layers[l][b]`."""

    def __init__(self, device: Device, config: ModelConfig, dtype: DType, num_blocks: int) -> None:
        layout = device.kv_layout
        layers, heads, dim = config.num_hidden_layers, config.num_key_value_heads, config.head_dim
        self.block_size = layout.block_size
        self.num_blocks = num_blocks
        dtype = cache_dtype(device, dtype)
        if layout.order == "KBD":
            blocks = device.alloc((num_blocks, layers, 2, heads, self.block_size, dim), dtype, "kv_cache")
        else:
            blocks = device.alloc((num_blocks, layers, 2, self.block_size, heads, dim), dtype, "kv_cache")
            blocks = blocks.transpose(0, 1, 2, 4, 3, 5)
        self.layers: tuple[Buffer, ...] = tuple(blocks[:, layer] for layer in range(layers))  # [N, 2, K, B, D] each

    @property
    def nbytes(self) -> int:
        return sum(layer.nbytes for layer in self.layers)


def cache_dtype(device: Device, dtype: DType) -> DType:
    """What k and v are stored in: the layout's own choice, or the activations' dtype."""
    return dtype if device.kv_layout.dtype == "auto" else dtypes.parse(device.kv_layout.dtype)


def token_bytes(device: Device, config: ModelConfig, dtype: DType) -> int:
    """Bytes of one token's k and v in all layers."""
    per_layer = 2 * config.num_key_value_heads * config.head_dim * cache_dtype(device, dtype).itemsize
    return config.num_hidden_layers * per_layer


def fitting_blocks(device: Device, config: ModelConfig, dtype: DType, wanted_tokens: int) -> int:
    """How many blocks the cache gets: those for `wanted_tokens`, as far as half of the arena's largest hole goes.

    The other half is the steps' work space. Raises OutOfMemoryError where not even one block fits.
    """
    block_size = device.kv_layout.block_size
    block_bytes = block_size * token_bytes(device, config, dtype)
    room = device.arena.stats().largest_hole_bytes // 2
    num_blocks = min(-(-wanted_tokens // block_size), room // block_bytes)
    if num_blocks < 1:
        raise OutOfMemoryError(
            "no room for a KV cache",
            where=device.info.id,
            why=f"a block takes {block_bytes} bytes, and {room} are left beside weights and work space",
            hint="raise --memory-budget",
            table=device.arena.table(),
        )
    return num_blocks
