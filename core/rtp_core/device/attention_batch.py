"""Who attends to what in one step: built once, read by every layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtp_core.memory.buffer import Buffer


@dataclass(frozen=True, slots=True)
class AttentionBatch:
    """T query tokens of R requests. Decode requests come first, with one query token each; then prefill.

    Request r owns query rows query_starts[r]:query_starts[r + 1], which are the last ones of its
    context_lens[r] tokens. Host arrays and device buffers of one name hold the same values.
    """

    num_decode: int
    query_starts: NDArray[np.int32]  # [R + 1]
    context_lens: NDArray[np.int32]  # [R], this step's tokens included
    device_query_starts: Buffer  # [R + 1] int32
    device_context_lens: Buffer  # [R] int32
    block_tables: Buffer  # [R, max blocks] int32: the blocks of each request in order
    positions: Buffer  # [T] int32
    slots: Buffer  # [T] int32: block id * block size + offset in the block, where the token's k and v go
    plan: Any = None  # what this device's plan_attention returned; opaque to core

    @property
    def num_requests(self) -> int:
        return len(self.context_lens)

    @property
    def num_tokens(self) -> int:
        return int(self.query_starts[-1])


@dataclass(frozen=True, slots=True)
class ForwardBatch:
    """One step as a model sees it. token_ids: [T] int32."""

    token_ids: Buffer
    attention: AttentionBatch


@dataclass(frozen=True, slots=True)
class EncoderBatch:
    """One step as an encoder sees it: whole requests, one after the other, without padding.

    token_ids, positions: [T] int32; lengths sum to T. Each request's positions count from 0.
    """

    token_ids: Buffer
    positions: Buffer
    lengths: tuple[int, ...]
