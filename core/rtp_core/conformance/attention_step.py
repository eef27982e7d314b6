"""Blocked KV and a mixed batch over it, as a model's step has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rtp_core.conformance.bench import Bench, Role
from rtp_core.device.attention_batch import AttentionBatch
from rtp_core.device.weights import RopeTables
from rtp_core.memory.buffer import Buffer

LAYERS, LAYER = 3, 1  # a cache holds several layers; the one that an op sees lies between others
ROPE_BASE = 100.0


class Cache:
    """Blocks with a past, and for each request of `contexts` tokens its scattered blocks. `kv`: [N, 2, K, B, D]."""

    def __init__(self, b: Bench, contexts: Sequence[int], *, role: Role = Role.INPUT) -> None:
        heads, size, dim = b.dims.num_key_value_heads, b.block_size, b.dims.head_dim
        used = [-(-context // size) for context in contexts]
        num_blocks = sum(used) + 2
        order = b.rng.permutation(num_blocks)
        self.tables = np.zeros((len(contexts), max([*used, 1])), np.int32)
        self.slots: list[NDArray[np.int32]] = []
        start = 0
        for row, (context, count) in enumerate(zip(contexts, used, strict=True)):
            self.tables[row, :count] = order[start : start + count]
            at = np.arange(context)
            self.slots.append((self.tables[row, at // size] * size + at % size).astype(np.int32))
            start += count
        inner = (heads, size, dim) if b.kv_order == "KBD" else (size, heads, dim)
        numbers = b.rng.standard_normal((num_blocks, LAYERS, 2, *inner))
        self.blocks = b.place(numbers, role=role, is_whole=True)
        layer = self.blocks[:, LAYER]
        self.kv: Buffer = layer if b.kv_order == "KBD" else layer.transpose(0, 1, 3, 2, 4)


class Step:
    """`requests` as (context, queries), those in decode first, over a cache of their own."""

    def __init__(self, b: Bench, requests: Sequence[tuple[int, int]], *, role: Role = Role.INPUT) -> None:
        contexts, queries = [c for c, _ in requests], [q for _, q in requests]
        self.cache = Cache(b, contexts, role=role)
        self.num_decode = sum(q == 1 for q in queries)
        self.num_tokens = sum(queries)
        starts = np.cumsum([0, *queries]).astype(np.int32)
        lens = np.array(contexts, np.int32)
        positions = np.concatenate([np.arange(c - q, c) for c, q in requests])
        slots = np.concatenate([s[len(s) - q :] for s, q in zip(self.cache.slots, queries, strict=True)])
        batch = AttentionBatch(
            num_decode=self.num_decode,
            query_starts=starts,
            context_lens=lens,
            device_query_starts=b.ids(starts),
            device_context_lens=b.ids(lens),
            block_tables=b.ids(self.cache.tables),
            positions=b.ids(positions),
            slots=b.ids(slots),
        )
        self.batch = replace(batch, plan=b.device.plan_attention(batch))
        pairs = b.dims.head_dim // 2
        angles = np.outer(np.arange(max(contexts)), ROPE_BASE ** (-np.arange(pairs) / pairs))
        self.rope = RopeTables(b.floats(np.cos(angles)), b.floats(np.sin(angles)))


def mixed_requests(b: Bench) -> tuple[tuple[int, int], ...]:
    """Two requests in decode and two in prefill, one of which has a past; they end in, at and after a block's end."""
    size = b.block_size
    return ((size + 3, 1), (1, 1), (2 * size + 1, 5), (4, 4))
