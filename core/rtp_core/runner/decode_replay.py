"""Decode steps recorded once per size and replayed: what varies lies in buffers that stay where they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn, cast

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import NDArray

from rtp_core import dtypes
from rtp_core.device.attention_batch import AttentionBatch, ForwardBatch
from rtp_core.device.device import Device
from rtp_core.device.weights import ModelWeights
from rtp_core.errors import ContractError
from rtp_core.kv.kv_cache import KVCache
from rtp_core.memory.buffer import Buffer
from rtp_core.memory.space import Region
from rtp_core.request import Request, SamplingParams
from rtp_core.scheduled_batch import ScheduledRequest

TAG = "decode_replay"
_ROWS = 4  # token ids, positions, slots, context lengths


class _HostRead(Exception):
    """A step that is being recorded wants a number that only a running one has."""


class _Varying(NDArrayOperatorsMixin):
    """In place of the host's context lengths while a step is recorded: how many there are, not what they are."""

    def __init__(self, count: int) -> None:
        self.shape = (count,)

    def __len__(self) -> int:
        return self.shape[0]

    def _is_read(self, *args: object, **options: object) -> NoReturn:
        raise _HostRead

    __getitem__ = __iter__ = __getattr__ = __array__ = __array_ufunc__ = __array_function__ = _is_read


@dataclass(frozen=True, slots=True)
class _Recorded:
    """A step of one size, and where its logits [R, V] lie once `replay` has run."""

    attention: AttentionBatch
    replay: Callable[[], None]
    logits: Buffer


class DecodeReplay:
    """Serves decode steps of up to `max_num_seqs` requests of up to `max_num_blocks` blocks.

    A step is as large as the device wants it recorded: rows that nobody asked for belong to the cache's filler block.

    Its memory is private, `nbytes` (see replay_bytes) for a step's integers and for whatever a step allocates; those of
    all sizes lie over one another. `problem`: why steps are not replayed, found out by recording one; or "".
    Raises OutOfMemoryError, and ContractError where steps are to be filled up and the cache has no block for it.
    """

    def __init__(
        self,
        ops: Device,
        weights: ModelWeights,
        cache: KVCache,
        *,
        max_num_seqs: int,
        max_num_blocks: int,
        nbytes: int,
    ) -> None:
        self._device, self._weights, self._cache = ops, weights, cache
        self._sizes = recorded_sizes(ops, max_num_seqs)
        if cache.filler_block is None and are_filled_up(self._sizes):
            raise ContractError(
                "decode steps are recorded in sizes that no memory was counted for",
                where=ops.info.id,
                why="capture_size of the device is not that of its rehearsal",
            )
        with ops.arena.lifetime("private"):
            storage = ops.arena.allocate(nbytes - _ints_bytes(max_num_seqs, max_num_blocks, ops.alignment), TAG)
            self._ints = ops.alloc((_ROWS, max_num_seqs), dtypes.int32, TAG)
            self._starts = ops.alloc((max_num_seqs + 1,), dtypes.int32, TAG)
            self._tables = ops.alloc((max_num_seqs, max_num_blocks), dtypes.int32, TAG)
        self._region = Region(storage.space, storage.address, storage.nbytes, storage.host_bytes(), storage)
        self._host_ints = np.zeros(self._ints.shape, np.int32)
        self._host_starts = np.arange(max_num_seqs + 1, dtype=np.int32)
        self._host_tables = np.zeros(self._tables.shape, np.int32)
        self._staged = Buffer.borrow(self._host_ints), Buffer.borrow(self._host_tables)
        ops.copy(self._starts, Buffer.borrow(self._host_starts))
        self._rows: list[Sequence[int]] = [()] * max_num_seqs  # the block table that each row of the tables has
        self._is_stale = False  # whether the device's tables are others
        self._recorded: dict[int, _Recorded] = {}
        # What is recorded runs, so there must be a step that can. No request has block 0 yet.
        self._filler = _filler(0 if cache.filler_block is None else cache.filler_block)
        self._bring([self._filler] * self._sizes[1])
        self.problem = self._record(self._sizes[1])

    def logits(self, requests: Sequence[ScheduledRequest]) -> Buffer | None:
        """Run one step of decode requests: [R, V] float32, which the next step overwrites. None: see `problem`."""
        count = len(requests)
        size = self._sizes[count]
        self._bring([*requests, *[self._filler] * (size - count)])
        if size not in self._recorded:
            self.problem = self._record(size)
            if self.problem:
                return None
        recorded = self._recorded[size]
        self._device.plan_attention(recorded.attention)
        recorded.replay()
        return recorded.logits[:count]

    def _record(self, count: int) -> str:
        """Run a step and keep it. Returns why that is not possible."""
        ops = self._device.over(self._region)
        attention = self._attention(count)
        attention = replace(attention, plan=ops.plan_attention(attention))
        varying = cast("NDArray[np.int32]", _Varying(count))
        batch = ForwardBatch(self._ints[0, :count], replace(attention, context_lens=varying))
        logits: list[Buffer] = []

        def step() -> None:
            logits.clear()  # of a run before the recorded one, whose memory this one takes again
            hidden = ops.model_forward(self._weights, self._cache.layers, batch)
            logits.append(ops.lm_head(hidden, self._weights.lm_head))

        try:
            with ops.arena.lifetime("persistent"):  # the logits stay
                replay = ops.capture(step)
        except _HostRead:
            return "an op of the plan reads context lengths on the host"
        if replay is None:
            return "the device keeps no record of them"
        self._recorded[count] = _Recorded(attention, replay, logits[0])
        return ""

    def _attention(self, count: int) -> AttentionBatch:
        """Over the fixed buffers; what they hold when it is read is the step's."""
        return AttentionBatch(
            num_decode=count,
            query_starts=self._host_starts[: count + 1],
            context_lens=self._host_ints[3, :count],
            device_query_starts=self._starts[: count + 1],
            device_context_lens=self._ints[3, :count],
            block_tables=self._tables[:count],
            positions=self._ints[1, :count],
            slots=self._ints[2, :count],
        )

    def _bring(self, requests: Sequence[ScheduledRequest]) -> None:
        """The step's integers, to the device."""
        size, ints, count = self._cache.block_size, self._host_ints, len(requests)
        owners, starts, _, tables = zip(*requests, strict=True)
        known = [(owner.output_token_ids or owner.prompt_token_ids)[-1] for owner in owners]
        slots = [table[at // size] * size + at % size for table, at in zip(tables, starts, strict=True)]
        ints[:3, :count] = known, starts, slots
        np.add(ints[1, :count], 1, out=ints[3, :count])
        self._device.copy(self._ints, self._staged[0])
        if self._rows[:count] != list(tables):
            self._write_tables(tables)
        if self._is_stale:
            self._device.copy(self._tables, self._staged[1])
            self._is_stale = False

    def _write_tables(self, tables: Sequence[Sequence[int]]) -> None:
        self._is_stale = True  # until they are there: a step that is interrupted in between runs again
        for row, table in enumerate(tables):
            if table != self._rows[row]:
                self._host_tables[row, : len(table)] = table
                self._rows[row] = table


def recorded_sizes(device: Device, max_num_seqs: int) -> dict[int, int]:
    """By number of requests, how many the recorded step has that serves them. Raises ContractError for fewer."""
    sizes = {count: min(device.capture_size(count), max_num_seqs) for count in range(1, max_num_seqs + 1)}
    for count, size in sizes.items():
        if size < count:
            raise ContractError(
                f"a decode step of {count} requests cannot be recorded as one of {size}",
                where=device.info.id,
                why=f"expected {count} or more from capture_size",
            )
    return sizes


def are_filled_up(sizes: dict[int, int]) -> bool:
    """Whether some steps have rows that nobody asked for."""
    return any(size > count for count, size in sizes.items())


def _filler(block: int) -> ScheduledRequest:
    """A row that any device can run: token 0 at position 0, which sees itself alone."""
    request = Request(request_id="filler", prompt_token_ids=(0,), sampling=SamplingParams(), seed=0)
    return ScheduledRequest(request, 0, 1, (block,))


def replay_bytes(step_bytes: int, *, max_num_seqs: int, max_num_blocks: int, alignment: int) -> int:
    """What a DecodeReplay takes in all, with `step_bytes` for what the largest step allocates."""
    return -(-step_bytes // alignment) * alignment + _ints_bytes(max_num_seqs, max_num_blocks, alignment)


def _ints_bytes(max_num_seqs: int, max_num_blocks: int, alignment: int) -> int:
    counts = _ROWS * max_num_seqs, max_num_seqs + 1, max_num_seqs * max_num_blocks
    return sum(-(-4 * count // alignment) * alignment for count in counts)
