"""How a device wants its KV blocks laid out. Ops always see [N, 2, K, B, D]; a layout only moves the strides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rtp_core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class KVLayout:
    """`block_size` tokens a block. `order`: which comes first in memory, the kv head ("KBD") or the token ("BKD").

    `dtype`: of keys and values; "auto" is the activations' own. `fast_dtype`: the same for a model that runs under
    dtype "auto", the device's fast path. `alignment` of a block in bytes.
    """

    block_size: int = 32
    order: Literal["KBD", "BKD"] = "KBD"
    dtype: str = "auto"
    alignment: int = 64
    fast_dtype: str = "auto"

    def __post_init__(self) -> None:
        if self.block_size < 1 or self.alignment < 1 or self.order not in ("KBD", "BKD"):
            raise ConfigError(f"bad KV layout {self!r}", why="expected block_size and alignment >= 1, order KBD or BKD")
