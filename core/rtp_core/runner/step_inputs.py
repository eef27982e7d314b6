"""The integers of one step: worked out on the host, brought to the device in one copy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rtp_core.device.attention_batch import AttentionBatch, ForwardBatch
from rtp_core.device.device import Device
from rtp_core.memory.buffer import Buffer
from rtp_core.scheduled_batch import ScheduledBatch

Ints = NDArray[np.int32]


def step_inputs(
    device: Device, batch: ScheduledBatch, block_size: int, logit_rows: Ints
) -> tuple[ForwardBatch, Buffer]:
    """What the model reads, and `logit_rows` [rows] on the device."""
    counts = np.array([s.num_tokens for s in batch.requests], np.int32)
    starts = np.array([s.start for s in batch.requests], np.int32)
    query_starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    context_lens = starts + counts
    token_ids = np.concatenate([s.request.token_ids(s.start, s.start + s.num_tokens) for s in batch.requests])
    positions = np.arange(batch.num_tokens, dtype=np.int32) + np.repeat(starts - query_starts[:-1], counts)
    block_tables = np.zeros((len(counts), max(len(s.block_table) for s in batch.requests)), np.int32)
    for row, scheduled in enumerate(batch.requests):
        block_tables[row, : len(scheduled.block_table)] = scheduled.block_table
    owners = np.repeat(np.arange(len(counts)), counts)
    slots = block_tables[owners, positions // block_size] * block_size + positions % block_size
    parts = [token_ids, positions, slots, query_starts, context_lens, block_tables.reshape(-1), logit_rows]
    on_device = device.upload(np.concatenate(parts).astype(np.int32), "step_inputs")
    ends = np.cumsum([len(part) for part in parts]).tolist()
    views = [on_device[end - len(part) : end] for part, end in zip(parts, ends, strict=True)]
    attention = AttentionBatch(
        num_decode=batch.num_decode,
        query_starts=query_starts,
        context_lens=context_lens,
        device_query_starts=views[3],
        device_context_lens=views[4],
        block_tables=views[5].view(*block_tables.shape),
        positions=views[1],
        slots=views[2],
    )
    attention = replace(attention, plan=device.plan_attention(attention))
    return ForwardBatch(views[0], attention), views[6]
