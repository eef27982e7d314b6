"""The scheduler: which tokens of which requests run in the next step.

It owns the order of service and the counters of every request; not text, not sampling, not the device.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import NamedTuple

from rtp_core.errors import RequestError
from rtp_core.kv.block_manager import BlockManager, BlockTable
from rtp_core.request import FinishReason, Request
from rtp_core.scheduled_batch import ScheduledBatch, ScheduledRequest
from rtp_core.scheduler.scheduler_config import SchedulerConfig


class _End(NamedTuple):
    """When a request ends: with one of these tokens, or at so many of prompt and output together."""

    token_ids: frozenset[int]
    num_tokens: int


class Scheduler:
    """Continuous batching with chunked prefill: decode and prefill share a step.

    Service order is (priority, arrival), for running and waiting requests alike.

    * Every running request that decodes gets its token in every step in which it gets a block; prefills share
      what is left of max_num_batched_tokens.
    * A waiting request is admitted only when the free blocks cover all of its tokens, and takes them at once:
      a prefill never stops half-way for want of blocks. Nobody is admitted past another who does not fit.
    * A running request that cannot grow preempts from the tail, so never one served before it. The tail itself
      waits and keeps its blocks. The first running request can therefore always run, and every step advances it.
    * Preemption frees the blocks; the outputs stay, and are computed again as part of the prefill.
    * A request that all blocks together could not hold ends with "length" after its last token that fits,
      whatever else runs: its tokens do not depend on its company.
    """

    def __init__(self, config: SchedulerConfig, block_manager: BlockManager) -> None:
        self.config = config
        self._blocks = block_manager
        self._unfinished: dict[str, Request] = {}
        self._ends: dict[str, _End] = {}
        self._running: list[Request] = []  # both sorted by _service_order
        self._waiting: list[Request] = []
        self._num_arrivals = 0

    @property
    def has_unfinished(self) -> bool:
        return bool(self._unfinished)

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    def add(self, request: Request) -> None:
        """Queue a new request. Raises RequestError for a known id, and for a prompt that is empty or can never fit."""
        request_id, num_prompt = request.request_id, request.num_prompt_tokens
        if request_id in self._unfinished:
            raise RequestError(f"request {request_id!r} is already there", why="expected an id of its own")
        if request.is_finished or request.num_computed_tokens or request.output_token_ids:
            raise RequestError(f"request {request_id!r} has run before", why="expected a new one")
        if num_prompt == 0:
            raise RequestError(f"request {request_id!r} has an empty prompt", why="expected at least one token")
        if num_prompt >= self.config.max_model_len:
            raise RequestError(
                f"the prompt of request {request_id!r} has {num_prompt} tokens",
                why=f"max_model_len is {self.config.max_model_len}, and at least one token is for the output",
                hint="shorten the prompt or raise --max-model-len",
            )
        if self._blocks.num_blocks_for(num_prompt) > self._blocks.num_blocks:
            raise RequestError(
                f"the prompt of request {request_id!r} needs {self._blocks.num_blocks_for(num_prompt)} blocks",
                why=f"the KV cache has {self._blocks.num_blocks} of {self._blocks.block_size} tokens",
                hint="shorten the prompt or raise --memory-budget",
            )
        request.arrival = self._num_arrivals
        self._ends[request_id] = self._end_of(request)
        self._num_arrivals += 1
        self._unfinished[request_id] = request
        insort(self._waiting, request, key=_service_order)

    def abort(self, request_id: str) -> bool:
        """Finish a request with "abort". False where there is none such: an abort may come after the end."""
        if request_id not in self._unfinished:
            return False
        self.finish(request_id, "abort")
        return True

    def finish(self, request_id: str, reason: FinishReason) -> None:
        """End a request and free its blocks now. Raises RequestError where no such request is unfinished."""
        request = self._unfinished.pop(request_id, None)
        if request is None:
            raise RequestError(f"cannot finish request {request_id!r}", why="no unfinished request has this id")
        request.finish_reason = reason
        del self._ends[request_id]
        if not _remove(self._waiting, request):
            _remove(self._running, request)
            self._blocks.free(request_id)

    def schedule(self) -> ScheduledBatch:
        """Choose the tokens of the next step and give them blocks. Never empty while a request is unfinished.

        No counter changes before `update`: a step that failed can be scheduled again.
        """
        decodes: list[ScheduledRequest] = []
        prefills: list[ScheduledRequest] = []
        preempted: list[str] = []
        running, blocks = self._running, self._blocks
        # Decodes are budgeted before any prefill. What a preempted one leaves unused is not worth a second pass.
        missing = [request.num_tokens - request.num_computed_tokens for request in running]
        budget = self.config.max_num_batched_tokens - missing.count(1)
        for request, num_missing in zip(running, missing, strict=False):  # preemption shortens `running` from its end
            start, num_tokens = request.num_computed_tokens, num_missing
            if num_missing > 1:
                num_tokens = min(num_missing, budget)
                budget -= num_tokens
                if not num_tokens:
                    continue
            table = blocks.extend(request.request_id, start + num_tokens)
            if table is None:
                table = self._grow(request, start + num_tokens, preempted)
                if table is None:
                    continue
            scheduled = ScheduledRequest(request, start, num_tokens, table)
            (decodes if num_missing == 1 and start else prefills).append(scheduled)
        # A step that took blocks away gives none to newcomers, least of all to those it took them from. Where the
        # tail waits for a block none is free, and nobody is admitted either.
        if not preempted:
            self._admit(budget, prefills)
        num_tokens = sum(scheduled.num_tokens for scheduled in prefills) + len(decodes)
        return ScheduledBatch((*decodes, *prefills), tuple(preempted), num_tokens, len(decodes))

    def update(self, batch: ScheduledBatch, token_ids: Sequence[int | None]) -> list[Request]:
        """Book a step that has run, and return the requests that got a token; some of them are now finished.

        token_ids: aligned with batch.requests; None where no token was yielded. Requests that were finished
        since `schedule` are ignored.
        """
        assert len(token_ids) == len(batch.requests), f"{len(token_ids)} tokens for {len(batch.requests)} requests"
        changed: list[Request] = []
        for (request, start, num_tokens, _), token_id in zip(batch.requests, token_ids, strict=True):
            if request.finish_reason is not None:
                continue
            assert request.num_computed_tokens == start, f"request {request.request_id!r} was booked twice"
            computed = start + num_tokens
            assert (token_id is not None) == (computed == request.num_tokens), (
                f"token {token_id} for {request.request_id!r}"
            )
            request.num_computed_tokens = computed
            if token_id is None:
                continue
            request.output_token_ids.append(token_id)
            changed.append(request)
            end = self._ends[request.request_id]
            if token_id in end.token_ids:
                self.finish(request.request_id, "stop")
            elif computed + 1 >= end.num_tokens:
                self.finish(request.request_id, "length")
        return changed

    def check_integrity(self) -> None:
        """Assert that queues, counters and blocks agree. Holds between any two calls."""
        self._blocks.check_integrity()
        assert self._running == sorted(self._running, key=_service_order)
        assert self._waiting == sorted(self._waiting, key=_service_order)
        queued = [request.request_id for request in self._running + self._waiting]
        assert sorted(queued) == sorted(self._unfinished), "a request is lost or queued twice"
        assert self._ends == {r.request_id: self._end_of(r) for r in self._unfinished.values()}
        assert not any(request.is_finished for request in self._unfinished.values())
        assert len(self._running) <= self.config.max_num_seqs
        assert all(request.num_computed_tokens == 0 for request in self._waiting)
        num_owned = 0
        for request in self._running:
            assert request.num_computed_tokens < request.num_tokens < self._ends[request.request_id].num_tokens
            num_blocks = len(self._blocks.block_table(request.request_id))
            assert num_blocks >= self._blocks.num_blocks_for(request.num_computed_tokens)
            assert num_blocks <= self._blocks.num_blocks_for(request.num_tokens), "a block that is not needed yet"
            num_owned += num_blocks
        assert num_owned + self._blocks.num_free_blocks == self._blocks.num_blocks, "a block of a request that is gone"

    def _grow(self, request: Request, num_tokens: int, preempted: list[str]) -> BlockTable | None:
        """Cover `num_tokens` of a running request, at the expense of those behind it. None: it has to wait."""
        while (table := self._blocks.extend(request.request_id, num_tokens)) is None:
            victim = self._running[-1]
            if victim is request:
                return None
            self._preempt(victim)
            preempted.append(victim.request_id)
        return table

    def _preempt(self, request: Request) -> None:
        self._running.pop()
        self._blocks.free(request.request_id)
        request.num_computed_tokens = 0
        request.num_preemptions += 1
        # It keeps its arrival, so within its priority it is ahead of all that were never admitted.
        insort(self._waiting, request, key=_service_order)

    def _admit(self, budget: int, prefills: list[ScheduledRequest]) -> None:
        while self._waiting and budget > 0 and len(self._running) < self.config.max_num_seqs:
            request = self._waiting[0]
            table = self._blocks.allocate(request.request_id, request.num_tokens)
            if table is None:
                return
            self._waiting.pop(0)
            insort(self._running, request, key=_service_order)
            num_tokens = min(request.num_tokens, budget)
            budget -= num_tokens
            prefills.append(ScheduledRequest(request, 0, num_tokens, table))

    def _end_of(self, request: Request) -> _End:
        sampling = request.sampling
        token_ids = frozenset(sampling.stop_token_ids)
        if not sampling.ignore_eos:
            token_ids |= request.eos_token_ids
        # The last token is never computed, so it needs no place in a block.
        limit = min(self.config.max_model_len, self._blocks.num_blocks * self._blocks.block_size + 1)
        if sampling.max_tokens is not None:
            limit = min(limit, request.num_prompt_tokens + sampling.max_tokens)
        return _End(token_ids, limit)


def _service_order(request: Request) -> tuple[int, int]:
    return request.priority, request.arrival


def _remove(queue: list[Request], request: Request) -> bool:
    """Take a request out of a sorted queue; whether it was there."""
    index = bisect_left(queue, _service_order(request), key=_service_order)
    if index == len(queue) or queue[index] is not request:
        return False
    del queue[index]
    return True
