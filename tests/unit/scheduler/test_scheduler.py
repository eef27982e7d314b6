"""The scheduler, with a toy model in place of a device: it checks what every step reads and writes."""

from __future__ import annotations

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rtp_core.errors import ConfigError, RequestError
from rtp_core.kv.block_manager import BlockManager
from rtp_core.request import Request, SamplingParams
from rtp_core.scheduled_batch import ScheduledRequest
from rtp_core.scheduler.scheduler import Scheduler
from rtp_core.scheduler.scheduler_config import SchedulerConfig

EOS = 1


def next_token(history):
    """The toy model: a token from 0 to 22 that depends on every token before it."""
    state = 0
    for token in history:
        state = (state * 31 + token + 7) % 1_000_003
    return state % 23


def make_request(request_id, prompt, *, priority=0, eos=True, **params):
    return Request(
        request_id=request_id,
        prompt_token_ids=tuple(prompt),
        sampling=SamplingParams(**params),
        seed=0,
        eos_token_ids=frozenset({EOS} if eos else ()),
        priority=priority,
    )


def make_scheduler(num_blocks=16, block_size=4, *, seqs=4, tokens=16, length=64):
    return Scheduler(SchedulerConfig(seqs, tokens, length), BlockManager(num_blocks, block_size))


class ToyRunner:
    """Runs batches on a KV cache of tokens, and sees that each query finds its whole past in its blocks."""

    def __init__(self, block_size):
        self.block_size = block_size
        self.slots = {}  # (block, offset) -> token

    def run(self, batch):
        for scheduled in batch.requests:
            for position in range(scheduled.start, scheduled.start + scheduled.num_tokens):
                slot = scheduled.block_table[position // self.block_size], position % self.block_size
                (self.slots[slot],) = scheduled.request.token_ids(position, position + 1)
        return [self._query(scheduled) for scheduled in batch.requests]

    def _query(self, scheduled):
        stop = scheduled.start + scheduled.num_tokens
        size = self.block_size
        history = [self.slots[scheduled.block_table[p // size], p % size] for p in range(stop)]
        assert tuple(history) == scheduled.request.token_ids(0, stop)
        return next_token(history) if scheduled.yields_token else None


def step(scheduler, runner):
    batch = scheduler.schedule()
    changed = scheduler.update(batch, runner.run(batch))
    scheduler.check_integrity()
    return batch, changed


def drain(scheduler, runner=None, limit=2000):
    runner = runner or ToyRunner(scheduler._blocks.block_size)
    batches = []
    while scheduler.has_unfinished:
        assert len(batches) < limit, "no end in sight"
        batches.append(step(scheduler, runner)[0])
    return batches


def expected_output(request, max_num_tokens):
    """What the request yields when nobody else is there."""
    history, output, params = list(request.prompt_token_ids), [], request.sampling
    while True:
        token = next_token(history)
        history.append(token)
        output.append(token)
        if (token in request.eos_token_ids and not params.ignore_eos) or token in params.stop_token_ids:
            return output, "stop"
        if len(history) >= max_num_tokens or len(output) == params.max_tokens:
            return output, "length"


def shape(batch):
    return [(s.request.request_id, s.start, s.num_tokens) for s in batch.requests]


# -- limits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [(0, 8, 8), (8, 0, 8), (8, 8, 0), (True, 8, 8), (8, 8.0, 8)])
def test_limits_are_integers_of_at_least_one(limits):
    with pytest.raises(ConfigError, match="expected an integer of at least 1"):
        SchedulerConfig(*limits)


def test_a_step_must_have_room_for_every_running_request():
    with pytest.raises(ConfigError, match="max_num_batched_tokens is 7"):
        SchedulerConfig(8, 7, 100)
    SchedulerConfig(8, 8, 100)


# -- admission -----------------------------------------------------------------------------------------------------


def test_requests_that_can_never_run_are_rejected_with_the_numbers():
    scheduler = make_scheduler(num_blocks=4, block_size=4, length=64)
    scheduler.add(make_request("a", [5]))
    with pytest.raises(RequestError, match="'a' is already there"):
        scheduler.add(make_request("a", [5]))
    with pytest.raises(RequestError, match="empty prompt"):
        scheduler.add(make_request("b", []))
    with pytest.raises(RequestError, match=r"64 tokens.*max_model_len is 64"):
        scheduler.add(make_request("b", [5] * 64))
    with pytest.raises(RequestError, match=r"needs 5 blocks.*has 4 of 4 tokens"):
        scheduler.add(make_request("b", [5] * 17))
    drain(scheduler)


def test_a_request_that_has_run_cannot_be_added_again():
    scheduler = make_scheduler()
    request = make_request("a", [5], max_tokens=1)
    scheduler.add(request)
    drain(scheduler)
    with pytest.raises(RequestError, match="has run before"):
        scheduler.add(request)
    scheduler.add(make_request("a", [5], max_tokens=1))
    drain(scheduler)


def test_prefills_share_a_step_up_to_the_budget_and_go_on_in_chunks():
    scheduler, runner = make_scheduler(tokens=10), ToyRunner(4)
    for name, length in (("a", 6), ("b", 7), ("c", 3)):
        scheduler.add(make_request(name, range(2, 2 + length), eos=False, max_tokens=4))
    assert shape(step(scheduler, runner)[0]) == [("a", 0, 6), ("b", 0, 4)]
    assert shape(step(scheduler, runner)[0]) == [("a", 6, 1), ("b", 4, 3), ("c", 0, 3)]
    batch, changed = step(scheduler, runner)
    assert shape(batch) == [("a", 7, 1), ("b", 7, 1), ("c", 3, 1)]
    assert batch.num_decode == batch.num_tokens == 3
    assert [request.request_id for request in changed] == ["a", "b", "c"]


def test_the_last_chunk_of_a_prompt_is_a_decode_where_it_is_one_token():
    scheduler, runner = make_scheduler(tokens=6), ToyRunner(4)
    scheduler.add(make_request("a", range(2, 9), eos=False, max_tokens=3))
    batch, changed = step(scheduler, runner)
    assert (shape(batch), batch.num_decode, changed) == ([("a", 0, 6)], 0, [])
    scheduler.add(make_request("b", range(2, 13), eos=False, max_tokens=2))
    batch = scheduler.schedule()
    assert shape(batch) == [("a", 6, 1), ("b", 0, 5)]
    assert batch.num_decode == 1 and batch.requests[0].is_decode and batch.requests[0].yields_token
    changed = scheduler.update(batch, runner.run(batch))
    assert [request.request_id for request in changed] == ["a"]
    assert shape(step(scheduler, runner)[0]) == [("a", 7, 1), ("b", 5, 5)]
    batch, changed = step(scheduler, runner)
    assert shape(batch) == [("a", 8, 1), ("b", 10, 1)]
    assert batch.num_decode == batch.num_tokens == 2  # one has outputs, the other has none yet
    assert [request.output_token_ids for request in changed] == [
        expected_output(request, 64)[0][: len(request.output_token_ids)] for request in changed
    ]
    drain(scheduler, runner)


def test_decodes_go_on_while_a_long_prompt_is_prefilled():
    scheduler, runner = make_scheduler(num_blocks=32, tokens=8), ToyRunner(4)
    for name in "ab":
        scheduler.add(make_request(name, [2, 3], eos=False, max_tokens=10))
    step(scheduler, runner)
    scheduler.add(make_request("long", [4] * 20, priority=-1, eos=False, max_tokens=2))
    for start in (0, 6, 12):
        batch, _ = step(scheduler, runner)
        assert [s.request.request_id for s in batch.requests] == ["a", "b", "long"]
        assert (batch.num_decode, batch.num_tokens) == (2, 8)
        assert batch.requests[2].start == start
    drain(scheduler, runner)


def test_no_more_than_max_num_seqs_run():
    scheduler = make_scheduler(seqs=2, num_blocks=64)
    for i in range(5):
        scheduler.add(make_request(str(i), [3, i], eos=False, max_tokens=3))
    assert [len(batch.requests) for batch in drain(scheduler)] == [2] * 6 + [1] * 3


def test_lower_priority_values_are_served_first_then_the_earlier():
    scheduler, runner = make_scheduler(seqs=1), ToyRunner(4)
    order = []
    for name, priority in (("late", 5), ("first", 0), ("second", 0), ("urgent", -3)):
        scheduler.add(make_request(name, [2], priority=priority, max_tokens=1))
    while scheduler.has_unfinished:
        order += [request.request_id for request in step(scheduler, runner)[1]]
    assert order == ["urgent", "first", "second", "late"]


def test_nobody_overtakes_a_waiting_request_that_does_not_fit():
    scheduler, runner = make_scheduler(num_blocks=4), ToyRunner(4)
    scheduler.add(make_request("a", [2] * 9, eos=False, max_tokens=3))
    step(scheduler, runner)
    scheduler.add(make_request("big", [3] * 8, eos=False, max_tokens=1))
    scheduler.add(make_request("small", [4], eos=False, max_tokens=1))
    assert shape(step(scheduler, runner)[0]) == [("a", 9, 1)]
    assert scheduler.num_waiting == 2


def test_a_prompt_of_one_token_is_a_prefill():
    request = make_request("a", [5])
    assert not ScheduledRequest(request, 0, 1, (0,)).is_decode
    request.output_token_ids.append(6)
    assert ScheduledRequest(request, 1, 1, (0,)).is_decode
    assert not ScheduledRequest(request, 0, 1, (0,)).yields_token
    assert not ScheduledRequest(request, 0, 2, (0,)).is_decode


# -- the end of a request ------------------------------------------------------------------------------------------


def finish_of(token_stream, **options):
    scheduler = make_scheduler(**options.pop("limits", {}))
    request = make_request("a", options.pop("prompt", [5, 6]), **options)
    scheduler.add(request)
    stream = iter(token_stream)
    while scheduler.has_unfinished:
        batch = scheduler.schedule()
        assert batch.requests
        scheduler.update(batch, [next(stream) if s.yields_token else None for s in batch.requests])
        scheduler.check_integrity()
    return request.output_token_ids, request.finish_reason


def test_eos_stops_and_is_kept():
    assert finish_of([8, EOS, 9]) == ([8, EOS], "stop")


def test_eos_is_a_token_like_any_other_where_it_is_ignored():
    assert finish_of([8, EOS, 9], ignore_eos=True, max_tokens=3) == ([8, EOS, 9], "length")
    assert finish_of([8, EOS, 9], ignore_eos=True, stop_token_ids=[EOS]) == ([8, EOS], "stop")


def test_a_stop_token_stops_and_is_kept():
    assert finish_of([8, 12, 9], stop_token_ids=[11, 12]) == ([8, 12], "stop")


def test_eos_as_the_last_allowed_token_is_a_stop():
    assert finish_of([8, EOS], max_tokens=2) == ([8, EOS], "stop")


def test_max_tokens_and_max_model_len_are_lengths():
    assert finish_of(range(8, 20), max_tokens=3) == ([8, 9, 10], "length")
    assert finish_of(range(8, 90), max_tokens=None, limits={"length": 7}) == ([8, 9, 10, 11, 12], "length")


def test_a_request_ends_with_length_where_all_blocks_are_full():
    # Two blocks of four hold eight computed tokens; the ninth is yielded and never computed.
    tokens, reason = finish_of(range(8, 90), max_tokens=50, limits={"num_blocks": 2})
    assert (len(tokens), reason) == (7, "length")
    assert finish_of([8], prompt=[5] * 8, max_tokens=50, limits={"num_blocks": 2}) == ([8], "length")


def test_the_engine_can_end_a_request_and_its_blocks_are_free_at_once():
    scheduler, runner = make_scheduler(), ToyRunner(4)
    request = make_request("a", [5, 6], eos=False)
    scheduler.add(request)
    step(scheduler, runner)
    scheduler.finish("a", "stop")
    assert request.finish_reason == "stop" and not scheduler.has_unfinished
    assert scheduler._blocks.num_free_blocks == 16
    with pytest.raises(RequestError, match="no unfinished request"):
        scheduler.finish("a", "stop")


def test_an_abort_between_schedule_and_update_is_safe():
    scheduler, runner = make_scheduler(), ToyRunner(4)
    kept, gone = make_request("kept", [5, 6], eos=False), make_request("gone", [7], eos=False)
    scheduler.add(kept)
    scheduler.add(gone)
    batch = scheduler.schedule()
    token_ids = runner.run(batch)
    assert scheduler.abort("gone")
    again = make_request("gone", [9, 9, 9], eos=False)
    scheduler.add(again)
    assert scheduler.update(batch, token_ids) == [kept]
    assert (gone.output_token_ids, gone.finish_reason) == ([], "abort")
    assert again.num_computed_tokens == 0 and not again.is_finished
    drain(scheduler, runner)
    assert len(again.output_token_ids) == 16


def test_an_abort_of_waiting_or_unknown_requests_is_safe():
    scheduler = make_scheduler()
    scheduler.add(make_request("a", [5]))
    assert scheduler.abort("a")
    assert not scheduler.abort("a")
    assert not scheduler.abort("never seen")
    assert scheduler.schedule() == ((), (), 0, 0)


def test_tokens_that_do_not_match_the_batch_are_caught():
    scheduler = make_scheduler()
    scheduler.add(make_request("a", [5]))
    batch = scheduler.schedule()
    with pytest.raises(AssertionError, match="0 tokens for 1"):
        scheduler.update(batch, [])
    with pytest.raises(AssertionError, match="token None"):
        scheduler.update(batch, [None])
    scheduler.update(batch, [8])
    with pytest.raises(AssertionError, match="booked twice"):
        scheduler.update(batch, [8])


def test_a_step_that_failed_is_scheduled_again_as_it_was():
    scheduler, runner = make_scheduler(), ToyRunner(4)
    scheduler.add(make_request("a", [5, 6, 7], eos=False))
    step(scheduler, runner)
    failed = scheduler.schedule()
    assert scheduler.schedule() == failed
    drain(scheduler, runner)


# -- preemption ----------------------------------------------------------------------------------------------------


def test_the_tail_is_preempted_and_its_outputs_are_computed_again():
    scheduler, runner = make_scheduler(num_blocks=4), ToyRunner(4)
    first = make_request("first", [2, 3, 4, 5], eos=False, max_tokens=8)
    last = make_request("last", [6, 7, 8, 9, 10], eos=False, max_tokens=8)
    for request in (first, last):
        scheduler.add(request)
    batch = None
    while not last.num_preemptions:
        batch, _ = step(scheduler, runner)
    assert batch.preempted_ids == ("last",)
    assert [s.request for s in batch.requests] == [first]
    assert first.num_preemptions == 0
    outputs_before = list(last.output_token_ids)
    assert last.num_computed_tokens == 0 and outputs_before
    drain(scheduler, runner)
    for request in (first, last):
        assert (request.output_token_ids, request.finish_reason) == expected_output(request, 17)
    assert last.output_token_ids[: len(outputs_before)] == outputs_before


def test_an_urgent_request_preempts_the_least_urgent_though_it_came_later():
    scheduler, runner = make_scheduler(num_blocks=4, block_size=4), ToyRunner(4)
    old = make_request("old", [2, 3, 4], priority=1, eos=False, max_tokens=12)
    scheduler.add(old)
    step(scheduler, runner)
    urgent = make_request("urgent", [5] * 8, priority=0, eos=False, max_tokens=8)
    scheduler.add(urgent)
    drain(scheduler, runner)
    assert (old.num_preemptions, urgent.num_preemptions) == (1, 0)
    assert old.output_token_ids == expected_output(old, 17)[0]


def test_the_tail_waits_with_its_blocks_rather_than_preempting_one_before_it():
    scheduler, runner = make_scheduler(num_blocks=3), ToyRunner(4)
    first = make_request("first", [2, 3, 4, 5, 6], eos=False, max_tokens=3)
    last = make_request("last", [6, 7, 8, 9], eos=False, max_tokens=3)
    for request in (first, last):
        scheduler.add(request)
    step(scheduler, runner)
    assert shape(step(scheduler, runner)[0]) == [("first", 5, 1)]
    assert last.num_computed_tokens == 4
    drain(scheduler, runner)
    assert (first.num_preemptions, last.num_preemptions) == (0, 0)


def test_a_preempted_request_is_ahead_of_those_that_never_ran():
    scheduler, runner = make_scheduler(num_blocks=4, seqs=2), ToyRunner(4)
    first = make_request("first", [2, 3, 4, 5], eos=False, max_tokens=8)
    last = make_request("last", [6, 7, 8, 9, 10], eos=False, max_tokens=8)
    for request in (first, last, make_request("new", [3], eos=False, max_tokens=1)):
        scheduler.add(request)
    while not last.num_preemptions:
        step(scheduler, runner)
    order = []
    while scheduler.has_unfinished:
        order += [r.request_id for r in step(scheduler, runner)[1] if r.is_finished]
    assert order.index("first") < order.index("last")
    assert not scheduler.has_unfinished


def test_a_step_that_preempts_admits_nobody():
    scheduler, runner = make_scheduler(num_blocks=4), ToyRunner(4)
    first = make_request("first", [2, 3, 4, 5], eos=False, max_tokens=8)
    last = make_request("last", [6, 7, 8, 9, 10], eos=False, max_tokens=8)
    for request in (first, last):
        scheduler.add(request)
    while first.num_tokens < 9:
        step(scheduler, runner)
    scheduler.add(make_request("urgent", [3], priority=-1, eos=False, max_tokens=1))
    batch, _ = step(scheduler, runner)
    assert (shape(batch), batch.preempted_ids) == ([("first", 8, 1)], ("last",))
    assert shape(step(scheduler, runner)[0]) == [("first", 9, 1), ("urgent", 0, 1)]
    drain(scheduler, runner)


@pytest.mark.parametrize(
    "damage",
    [
        lambda s: s._running.pop(),
        lambda s: s._running.reverse(),
        lambda s: s._waiting.append(s._running[0]),
        lambda s: s._blocks.allocate("stranger", 1),
        lambda s: s._blocks.extend("a", 5),
        lambda s: s._ends.pop("a"),
        lambda s: setattr(s._running[0], "finish_reason", "stop"),
        lambda s: setattr(s._running[0], "num_computed_tokens", 60),
        lambda s: setattr(s._waiting[0], "num_computed_tokens", 1),
    ],
)
def test_the_integrity_check_sees_damage(damage):
    scheduler = make_scheduler(seqs=2)
    for name in "abc":
        scheduler.add(make_request(name, [5, 6], eos=False))
    step(scheduler, ToyRunner(4))
    damage(scheduler)
    with pytest.raises(AssertionError):
        scheduler.check_integrity()


# -- everything at once --------------------------------------------------------------------------------------------


class SchedulerMachine(RuleBasedStateMachine):
    """Random traffic under tiny limits. Each request must yield what it yields alone, or be aborted."""

    NUM_BLOCKS, BLOCK_SIZE, SEQS, TOKENS, LENGTH = 6, 3, 4, 7, 24
    MAX_NUM_TOKENS = min(LENGTH, NUM_BLOCKS * BLOCK_SIZE + 1)

    def __init__(self):
        super().__init__()
        self.scheduler = make_scheduler(
            self.NUM_BLOCKS, self.BLOCK_SIZE, seqs=self.SEQS, tokens=self.TOKENS, length=self.LENGTH
        )
        self.runner = ToyRunner(self.BLOCK_SIZE)
        self.requests = []
        self.computed = {}  # request -> tokens computed since it was last preempted

    def unfinished(self):
        return [request for request in self.requests if not request.is_finished]

    @rule(
        prompt=st.lists(st.integers(0, 22), min_size=1, max_size=20),
        max_tokens=st.one_of(st.none(), st.integers(1, 14)),
        priority=st.integers(0, 1),
        eos=st.booleans(),
    )
    def add(self, prompt, max_tokens, priority, eos):
        request = make_request(f"r{len(self.requests)}", prompt, priority=priority, eos=eos, max_tokens=max_tokens)
        if len(prompt) > self.NUM_BLOCKS * self.BLOCK_SIZE:
            with pytest.raises(RequestError):
                self.scheduler.add(request)
            return
        self.scheduler.add(request)
        self.requests.append(request)

    @precondition(lambda self: self.unfinished())
    @rule(data=st.data())
    def abort(self, data):
        request = data.draw(st.sampled_from(self.unfinished()))
        assert self.scheduler.abort(request.request_id)
        assert request.finish_reason == "abort"

    @rule()
    def step(self):
        batch = self.schedule()
        self.book(batch, self.runner.run(batch))

    @precondition(lambda self: self.unfinished())
    @rule(data=st.data())
    def step_with_an_abort_inside(self, data):
        batch = self.schedule()
        token_ids = self.runner.run(batch)
        self.abort(data)
        self.book(batch, token_ids)

    @rule()
    def step_that_fails(self):
        self.schedule()

    def schedule(self):
        decoding = [r for r in self.scheduler._running if 0 < r.num_computed_tokens == r.num_tokens - 1]
        running = list(self.scheduler._running)
        batch = self.scheduler.schedule()
        self.check_order_and_budget(batch)
        self.check_preemption(batch, running)
        self.check_decodes(batch, running, decoding)
        assert batch.requests or not self.unfinished(), "a step with nothing to do"
        return batch

    def check_order_and_budget(self, batch):
        kinds = [scheduled.is_decode for scheduled in batch.requests]
        assert kinds == sorted(kinds, reverse=True) and sum(kinds) == batch.num_decode
        assert sum(scheduled.num_tokens for scheduled in batch.requests) == batch.num_tokens <= self.TOKENS
        assert len(batch.requests) == len({scheduled.request for scheduled in batch.requests}) <= self.SEQS
        for scheduled in batch.requests:
            assert not scheduled.request.is_finished and scheduled.num_tokens >= 1
            assert scheduled.start == scheduled.request.num_computed_tokens
            assert scheduled.start + scheduled.num_tokens <= scheduled.request.num_tokens
            assert len(scheduled.block_table) * self.BLOCK_SIZE >= scheduled.start + scheduled.num_tokens

    def check_preemption(self, batch, running):
        preempted = [request for request in running if request.request_id in batch.preempted_ids]
        assert len(preempted) == len(batch.preempted_ids)
        for victim in preempted:
            self.computed[victim] = 0
            for scheduled in batch.requests:
                winner = scheduled.request
                assert (winner.priority, winner.arrival) < (victim.priority, victim.arrival)

    def check_decodes(self, batch, running, decoding):
        served = {scheduled.request for scheduled in batch.requests}
        left_out = [r for r in decoding if r not in served and r.request_id not in batch.preempted_ids]
        if left_out:
            survivors = [r for r in running if r.request_id not in batch.preempted_ids]
            assert left_out == survivors[-1:] and self.scheduler._blocks.num_free_blocks == 0
            assert served <= set(running), "someone was admitted while a running request wants a block"

    def book(self, batch, token_ids):
        expected = [
            scheduled.request
            for scheduled, token_id in zip(batch.requests, token_ids, strict=True)
            if token_id is not None and not scheduled.request.is_finished
        ]
        for scheduled in batch.requests:
            # Positions are computed in order, none twice and none left out, from 0 again after a preemption.
            assert scheduled.start == self.computed.get(scheduled.request, 0)
            self.computed[scheduled.request] = scheduled.start + scheduled.num_tokens
        assert self.scheduler.update(batch, token_ids) == expected

    @invariant()
    def is_sound(self):
        self.scheduler.check_integrity()
        assert self.scheduler.has_unfinished == bool(self.unfinished())
        for request in self.requests:
            if request.finish_reason in ("stop", "length"):
                expected = expected_output(request, self.MAX_NUM_TOKENS)
                assert (request.output_token_ids, request.finish_reason) == expected

    def teardown(self):
        # Each step computes a token at least; the first request in order is never set back.
        for _ in range(self.MAX_NUM_TOKENS * len(self.requests)):
            if not self.scheduler.has_unfinished:
                break
            first = min(self.unfinished(), key=lambda r: (r.priority, r.arrival))
            preemptions = first.num_preemptions
            self.step()
            assert first.num_preemptions == preemptions
            self.is_sound()
        assert not self.scheduler.has_unfinished
        assert self.scheduler._blocks.num_free_blocks == self.NUM_BLOCKS


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(max_examples=120, stateful_step_count=40, deadline=None, derandomize=True)
