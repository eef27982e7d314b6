"""DecodeReplay on a device that keeps a tape in Python: what a step reads when it is replayed is that step's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rtp_core import dtypes
from rtp_core.device.reference import ReferenceDevice
from rtp_core.errors import ContractError, OutOfMemoryError
from rtp_core.memory.buffer import Buffer
from rtp_core.plugin import Device
from rtp_core.request import Request, SamplingParams
from rtp_core.runner.decode_replay import TAG, DecodeReplay, replay_bytes
from rtp_core.runner.step_inputs import step_inputs
from rtp_core.scheduled_batch import ScheduledBatch, ScheduledRequest

BLOCK_SIZE, MAX_NUM_SEQS, MAX_NUM_BLOCKS = 4, 5, 6
SIZES = {"max_num_seqs": MAX_NUM_SEQS, "max_num_blocks": MAX_NUM_BLOCKS}
STEP_BYTES = 4096
FILLER = MAX_NUM_SEQS * MAX_NUM_BLOCKS  # the block behind those of as many requests as there may be


@dataclass
class Tape:
    """The device's state, which its twins share. `when_recording` gets the attention's batch in a recorded step."""

    calls: list[Callable[[], object]] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    copied: list[tuple[int, ...]] = field(default_factory=list)  # shapes
    when_recording: Callable[[Any], object] = lambda attention: None
    is_recordable: Callable[[object], bool] = lambda count: True
    runs_before: int = 0  # of a step, before it is recorded
    capture_size: Callable[[int], int] = lambda count: count
    failing_copy: int = 0  # the copy that fails, counted from now


class TapeDevice(ReferenceDevice):
    """Records the calls of its kernels, and plays them over the addresses that they were recorded with."""

    def __init__(self, info: Any, config: Any) -> None:
        super().__init__(info, config)
        self._tape = Tape()

    def capture(self, step: Callable[[], None]) -> Callable[[], None] | None:
        for _ in range(self._tape.runs_before):
            step()
            self._tape.calls = []  # they hold the step's memory
        self._tape.calls = calls = []
        try:
            step()
        finally:
            self._tape.calls = []  # they hold the step's memory
        self._tape.log.append("record")
        count = calls[0]() if calls else 0
        if not self._tape.is_recordable(count):
            return None

        def replay() -> None:
            self._tape.log.append("replay")
            for call in calls:
                call()

        return replay

    def capture_size(self, num_requests: int) -> int:
        return self._tape.capture_size(num_requests)

    def plan_attention(self, batch: Any) -> Any:
        self._tape.log.append("plan again" if batch.plan else "plan")
        return {"count": batch.num_requests}

    def copy(self, dst: Buffer, src: Buffer) -> None:
        self._tape.failing_copy -= 1
        if self._tape.failing_copy == 0:
            raise KeyboardInterrupt
        self._tape.copied.append(dst.shape)
        super().copy(dst, src)


def model_forward(self: Any, weights: Any, kv: Any, batch: Any) -> Buffer:
    """[R, 5]: token, position, slot, context length, and the sum of the blocks that the context lies in."""
    attention = batch.attention
    count = attention.num_requests
    self._tape.when_recording(attention)
    hidden = self.alloc((count, 5), dtypes.float32, "hidden")
    tables, lengths = attention.block_tables, attention.device_context_lens
    parts = [batch.token_ids, attention.positions, attention.slots, lengths]

    def kernel() -> int:
        for i, part in enumerate(parts):
            hidden.numpy()[:, i] = part.numpy()
        for row, length in enumerate(lengths.numpy()):
            assert 1 <= length <= MAX_NUM_BLOCKS * BLOCK_SIZE
            hidden.numpy()[row, 4] = tables.numpy()[row, : -(-length // BLOCK_SIZE)].sum()
        return count

    kernel()
    self._tape.calls.append(kernel)
    return hidden


def lm_head(self: Any, x: Buffer, weight: Any) -> Buffer:
    logits = self.alloc(x.shape, dtypes.float32, "lm_head")

    def kernel() -> None:
        np.multiply(x.numpy(), 2, out=logits.numpy())

    kernel()
    self._tape.calls.append(kernel)
    return logits


@pytest.fixture
def ops(make_device: Any) -> Device:
    device = make_device(TapeDevice, 1 << 20)
    device.arena.host_bytes(device.arena.span[0], 1 << 19)[:] = 0xAB  # memory that was somebody's
    device.arena.host_bytes(device.arena.span[1] - (1 << 19), 1 << 19)[:] = 0xAB
    return device.bound({"model_forward": model_forward, "lm_head": lm_head})


def replay_on(
    ops: Device, step_bytes: int = STEP_BYTES, *, kv: tuple[Buffer, ...] = (), filler_block: int | None = None
) -> DecodeReplay:
    nbytes = replay_bytes(step_bytes, **SIZES, alignment=ops.alignment)
    cache = SimpleNamespace(block_size=BLOCK_SIZE, layers=kv, filler_block=filler_block)
    return DecodeReplay(ops, SimpleNamespace(lm_head=None), cache, nbytes=nbytes, **SIZES)  # type: ignore[arg-type]


def scheduled(tokens: list[int], start: int, table: tuple[int, ...]) -> ScheduledRequest:
    """One decode of a request whose first token is its prompt."""
    request = Request(
        request_id="r", prompt_token_ids=(tokens[0],), output_token_ids=tokens[1:], sampling=SamplingParams(), seed=0
    )
    return ScheduledRequest(request, start, 1, table)


def drawn(rng: np.random.Generator) -> ScheduledRequest:
    start = int(rng.integers(1, MAX_NUM_BLOCKS * BLOCK_SIZE))
    table = tuple(rng.integers(0, 100, start // BLOCK_SIZE + 1 + int(rng.integers(0, 2))).tolist())[:MAX_NUM_BLOCKS]
    return scheduled(rng.integers(0, 1000, int(rng.integers(1, 4))).tolist(), start, table)


def expected(requests: list[ScheduledRequest]) -> list[list[int]]:
    rows = []
    for request, start, _, table in requests:
        slot = table[start // BLOCK_SIZE] * BLOCK_SIZE + start % BLOCK_SIZE
        token = (*request.prompt_token_ids, *request.output_token_ids)[-1]
        blocks = table[: start // BLOCK_SIZE + 1]
        rows.append([2 * x for x in (token, start, slot, start + 1, sum(blocks))])
    return rows


@contextmanager
def log_of(ops: Any) -> Iterator[list[str]]:
    ops._tape.log.clear()
    yield ops._tape.log


def got(replay: DecodeReplay, requests: list[ScheduledRequest]) -> list[list[float]]:
    logits = replay.logits(requests)
    assert logits is not None
    return logits.numpy().tolist()


# -- steps ---------------------------------------------------------------------------------------------------------


def test_every_step_of_batches_that_grow_and_shrink_and_change_is_its_own(ops: Device) -> None:
    rng, replay = np.random.default_rng(5), replay_on(ops)
    batch: list[ScheduledRequest] = []
    for _ in range(300):
        batch = [request for request in batch if rng.random() < 0.8]
        batch += [drawn(rng) for _ in range(int(rng.integers(not batch, MAX_NUM_SEQS - len(batch) + 1)))]
        rng.shuffle(batch)  # type: ignore[arg-type]
        assert got(replay, batch) == expected(batch)


def test_a_size_is_recorded_once_and_attention_is_planned_before_every_replay(ops: Device) -> None:
    rng = np.random.default_rng(6)
    with log_of(ops) as log:
        replay = replay_on(ops)
        assert log == ["plan", "record"]  # of one request, at load
    for count, said in ((1, []), (3, ["plan", "record"]), (1, []), (3, [])):
        with log_of(ops) as log:
            replay.logits([drawn(rng) for _ in range(count)])
            assert log == [*said, "plan again", "replay"]


def test_a_device_may_run_a_step_before_it_records_it(ops: Any) -> None:
    ops._tape.runs_before = 2
    rng, replay = np.random.default_rng(8), replay_on(ops)
    for count in (1, 4, 2, 1):
        requests = [drawn(rng) for _ in range(count)]
        assert got(replay, requests) == expected(requests)


def test_block_tables_are_brought_when_they_are_others(ops: Any) -> None:
    replay, table = replay_on(ops), (7, 8)
    first = scheduled([1, 2], 2, table)
    for request, is_brought in (
        (first, True),
        (first._replace(start=3), False),
        (first._replace(start=4, block_table=(7, 9)), True),
    ):
        ops._tape.copied.clear()
        assert got(replay, [request]) == expected([request])
        assert ((MAX_NUM_SEQS, MAX_NUM_BLOCKS) in ops._tape.copied) == is_brought


def test_a_step_that_was_interrupted_runs_again_with_its_own_tables(ops: Any) -> None:
    replay = replay_on(ops)
    one, other = scheduled([1], 5, (3, 4)), scheduled([1], 5, (8, 9))
    assert got(replay, [one]) == expected([one])
    for copy in (1, 2):
        ops._tape.failing_copy = copy
        with pytest.raises(KeyboardInterrupt):
            replay.logits([other])
        assert got(replay, [other]) == expected([other])
        one, other = other, one


def test_the_last_token_of_a_prompt_read_in_chunks_is_a_step_like_others(ops: Device) -> None:
    request = Request(request_id="r", prompt_token_ids=(4, 5, 6), sampling=SamplingParams(), seed=0)
    last = ScheduledRequest(request, 2, 1, (11,))
    assert last.is_decode
    assert got(replay_on(ops), [last]) == [[2 * x for x in (6, 2, 46, 3, 11)]]


# -- sizes ---------------------------------------------------------------------------------------------------------

ROUNDINGS: dict[str, Callable[[int], int]] = {
    "exact": lambda count: count,
    "powers": lambda count: 1 << (count - 1).bit_length(),
    "fours": lambda count: -(-count // 4) * 4,
    "one": lambda count: 64,
}


def attending(self: Any, weights: Any, kv: tuple[Buffer, ...], batch: Any) -> Buffer:
    """[R, 1]: the sum of a request's keys, which are its tokens, each written to its slot of kv[0] [N * B]."""
    attention, (keys,) = batch.attention, kv
    hidden = self.alloc((attention.num_requests, 1), dtypes.float32, "hidden")

    def kernel() -> int:
        keys.numpy()[attention.slots.numpy()] = batch.token_ids.numpy()
        blocks = keys.numpy().reshape(-1, BLOCK_SIZE)
        for row, length in enumerate(attention.device_context_lens.numpy()):
            table = attention.block_tables.numpy()[row, : -(-length // BLOCK_SIZE)]
            hidden.numpy()[row] = blocks[table].reshape(-1)[:length].sum()
        return attention.num_requests

    kernel()
    self._tape.calls.append(kernel)
    return hidden


def eager(ops: Any, kv: Buffer, requests: Sequence[ScheduledRequest]) -> NDArray[np.float32]:
    count = len(requests)
    batch = ScheduledBatch(tuple(requests), (), count, count)
    inputs, _ = step_inputs(ops, batch, BLOCK_SIZE, np.arange(count, dtype=np.int32))
    hidden = ops.model_forward(SimpleNamespace(), (kv,), inputs)  # type: ignore[arg-type]
    logits: NDArray[np.float32] = ops.lm_head(hidden, None).numpy()  # type: ignore[arg-type]
    ops._tape.calls.clear()  # they hold the step's memory
    return logits


def next_token(owner: Request, table: tuple[int, ...], rng: np.random.Generator) -> ScheduledRequest:
    """The decode of a request that grows by a token each time, until another has its blocks and writes them anew."""
    if owner.num_tokens == MAX_NUM_BLOCKS * BLOCK_SIZE or rng.random() < 0.2:
        owner.output_token_ids.clear()
    owner.output_token_ids.append(int(rng.integers(1, 1000)))
    return ScheduledRequest(owner, owner.num_tokens - 1, 1, table)


@pytest.mark.parametrize("rounded", ROUNDINGS.values(), ids=ROUNDINGS)
def test_steps_that_are_filled_up_are_those_op_by_op_and_leave_keys_of_others_alone(
    rounded: Callable[[int], int], ops: Any
) -> None:
    rng, ops._tape.capture_size = np.random.default_rng(10), rounded
    ops = ops.bound({"model_forward": attending})
    keys = rng.integers(1, 1000, (FILLER + 1) * BLOCK_SIZE).astype(np.float32)
    kv, own = ops.upload(keys, "kv"), ops.upload(keys, "kv")
    with log_of(ops) as log:
        replay = replay_on(ops, kv=(kv,), filler_block=None if rounded is ROUNDINGS["exact"] else FILLER)
        ops.copy(kv, own)  # nobody had a block while the first step was recorded
        tables = rng.permutation(FILLER).reshape(MAX_NUM_SEQS, MAX_NUM_BLOCKS).tolist()
        owners = [Request(request_id="r", prompt_token_ids=(7,), sampling=SamplingParams(), seed=0) for _ in tables]
        asked = {1}
        for _ in range(200):
            chosen = rng.permutation(MAX_NUM_SEQS)[: rng.integers(1, MAX_NUM_SEQS + 1)]
            requests = [next_token(owners[i], tuple(tables[i]), rng) for i in chosen]
            asked.add(len(requests))
            assert got(replay, requests) == eager(ops, own, requests).tolist()
            changed = np.flatnonzero(kv.numpy() != own.numpy())
            assert set(changed.tolist()) <= {FILLER * BLOCK_SIZE}
        assert log.count("record") == len({min(rounded(count), MAX_NUM_SEQS) for count in asked})


def test_a_size_that_is_too_small_is_an_error(ops: Any) -> None:
    ops._tape.capture_size = lambda count: min(count, 3)
    with pytest.raises(ContractError, match="a decode step of 4 requests cannot be recorded as one of 3"):
        replay_on(ops, filler_block=FILLER)


def test_steps_are_not_filled_up_where_no_block_is_counted_for_it(ops: Any) -> None:
    ops._tape.capture_size = lambda count: 64
    with pytest.raises(ContractError, match="in sizes that no memory was counted for"):
        replay_on(ops)
    assert ops.arena.stats().used_bytes == 0


# -- memory --------------------------------------------------------------------------------------------------------


def test_its_memory_is_private_and_as_much_as_was_said_however_many_sizes_there_are(ops: Device) -> None:
    rng, nbytes = np.random.default_rng(7), replay_bytes(STEP_BYTES, **SIZES, alignment=ops.alignment)
    replay = replay_on(ops)
    for count in (1, 5, 2, 4, 3):
        logits = replay.logits([drawn(rng) for _ in range(count)])
        assert logits is not None
        stats, table = ops.arena.stats(), ops.arena.totals()
        assert table == {TAG: nbytes}
        assert (stats.private_bytes, stats.public_bytes, stats.persistent_bytes) == (nbytes, 0, 0)
        low = ops.arena.span[1] - nbytes
        assert low <= logits.address < low + STEP_BYTES, "all sizes lie over one another"


def test_runs_before_the_recorded_one_take_no_more_than_it_does(ops: Any) -> None:
    ops._tape.runs_before = 2
    assert not replay_on(ops, 2 * 64).problem  # hidden and logits of one request


def test_a_step_that_takes_more_than_it_was_given_says_so(ops: Device) -> None:
    with pytest.raises(OutOfMemoryError, match="cannot allocate 20 bytes for 'lm_head'"):
        replay_on(ops, 64)


# -- steps that cannot be recorded ---------------------------------------------------------------------------------

READS: dict[str, Callable[[Any], object]] = {
    "item": lambda lengths: lengths[0],
    "slice": lambda lengths: lengths[1:],
    "loop": list,
    "array": np.asarray,
    "max": lambda lengths: lengths.max(),
    "largest": max,
    "tolist": lambda lengths: lengths.tolist(),
    "cumsum": np.cumsum,
    "plus": lambda lengths: lengths + 1,
    "from_left": lambda lengths: np.ones(1, np.int32) - lengths,
    "compared": lambda lengths: lengths > 3,
    "ufunc": lambda lengths: np.maximum(lengths, 2),
    "concatenated": lambda lengths: np.concatenate([[0], lengths]),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_an_op_that_reads_context_lengths_on_the_host_cannot_be_recorded(
    read: Callable[[Any], object], ops: Any
) -> None:
    ops._tape.when_recording = lambda attention: read(attention.context_lens)
    assert replay_on(ops).problem == "an op of the plan reads context lengths on the host"
    assert ops.arena.stats().used_bytes == 0


def test_how_many_they_are_may_be_asked(ops: Any) -> None:
    def ask(attention: Any) -> None:
        assert attention.num_requests == attention.num_tokens == len(attention.context_lens)
        assert attention.context_lens.shape == (attention.num_requests,)
        assert attention.query_starts.tolist() == list(range(attention.num_requests + 1))

    ops._tape.when_recording = ask
    assert replay_on(ops).problem == ""


def test_a_size_that_the_device_will_not_record_ends_replay_with_the_reason(ops: Any) -> None:
    ops._tape.is_recordable = lambda count: count < 3
    rng, replay = np.random.default_rng(8), replay_on(ops)
    two, three = [drawn(rng) for _ in range(2)], [drawn(rng) for _ in range(3)]
    assert got(replay, two) == expected(two)
    assert replay.logits(three) is None
    assert replay.problem == "the device keeps no record of them"


def test_an_error_while_recording_passes_and_the_size_is_recorded_when_it_is_over(ops: Any) -> None:
    def broken(attention: Any) -> None:
        raise ZeroDivisionError

    rng, replay = np.random.default_rng(9), replay_on(ops)
    batch = [drawn(rng) for _ in range(2)]
    ops._tape.when_recording = broken
    with pytest.raises(ZeroDivisionError):
        replay.logits(batch)
    ops._tape.when_recording = lambda attention: None
    assert replay.problem == ""
    assert got(replay, batch) == expected(batch)
