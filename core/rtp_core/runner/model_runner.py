"""From a scheduled batch to token ids: runs the model through the plan, takes the logits that are needed, samples."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from rtp_core.device.device import Device
from rtp_core.device.failure import Failures
from rtp_core.device.host_sampling import log_softmax, token_logprobs
from rtp_core.device.plan import Plan
from rtp_core.device.weights import ModelWeights
from rtp_core.kv.kv_cache import KVCache
from rtp_core.memory.buffer import Buffer
from rtp_core.request import Request, TokenLogprobs
from rtp_core.runner.decode_replay import DecodeReplay
from rtp_core.runner.step_inputs import step_inputs
from rtp_core.runner.step_result import StepResult
from rtp_core.sampling.sampling_batch import SamplingBatch
from rtp_core.sampling.uniforms import Uniforms
from rtp_core.scheduled_batch import ScheduledBatch, ScheduledRequest

PROMPT_ROWS = 64  # prompt positions whose logits are held at once: each takes vocab_size floats


class ModelRunner:
    """Holds references only: the plan's tables, the weights, and the cache that they run with."""

    def __init__(self, plan: Plan, weights: ModelWeights, cache: KVCache, replay: DecodeReplay | None = None) -> None:
        self._plan, self._weights, self._cache = plan, weights, cache
        self._replay = replay
        self._failures = Failures(plan.ops("prefill"), plan.serving)
        self._uniforms = Uniforms()
        self._sampling: tuple[list[Request], SamplingBatch] = [], SamplingBatch.of((), self._uniforms)

    @property
    def why_eager(self) -> str:
        """Why recorded decode steps are no longer replayed, or ""."""
        return "" if self._replay is None else self._replay.problem

    @property
    def features(self) -> frozenset[str]:
        """What requests may ask of the ops."""
        return self._plan.dynamic

    def execute(self, batch: ScheduledBatch) -> StepResult:
        """Run one step. Changes blocks of the KV cache and nothing else: a step that failed can run again.

        Raises DeviceError, naming the override, where one failed; it is not tried with another. DeviceFailedError, then
        and ever after, where the device is lost.
        """
        with self._failures:
            return self._execute(batch)

    def distributions(self, batch: ScheduledBatch) -> Iterator[NDArray[np.float32]]:
        """Run one step and choose nothing: natural log probabilities [rows, V] of what follows each of its tokens,
        at most PROMPT_ROWS rows at a time. The step holds its hidden states until the iterator ends or is closed.

        Raises as `execute` does.
        """
        with self._failures:
            yield from self._distributions(batch)

    def _distributions(self, batch: ScheduledBatch) -> Iterator[NDArray[np.float32]]:
        ops, _ = self._begin(batch)
        inputs, rows = step_inputs(ops, batch, self._cache.block_size, np.arange(batch.num_tokens, dtype=np.int32))
        hidden = ops.model_forward(self._weights, self._cache.layers, inputs)
        for start in range(0, batch.num_tokens, PROMPT_ROWS):
            stop = min(start + PROMPT_ROWS, batch.num_tokens)
            yield log_softmax(ops.download(self._logits(ops, hidden, rows[start:stop])))

    def _begin(self, batch: ScheduledBatch) -> tuple[Device, bool]:
        """The ops of a new step, and whether it may be a recorded one."""
        features = frozenset[str]().union(*{s.request.features for s in batch.requests})
        phase = _phase(batch)
        ops = self._plan.ops("decode" if phase == "decode" else "prefill", features)
        blocks = {scheduled.request.request_id: scheduled.block_table for scheduled in batch.requests}
        ops.arena.begin_step(phase, blocks, _EXECUTE)
        return ops, phase == "decode" and not features

    def _execute(self, batch: ScheduledBatch) -> StepResult:
        ops, is_plain_decode = self._begin(batch)
        if is_plain_decode and self._replay is not None and not self._replay.problem:
            logits = self._replay.logits(batch.requests)
            if logits is not None:
                chosen = self._sample(ops, [scheduled.request for scheduled in batch.requests], logits)
                return StepResult(*chosen, _no_prompt_logprobs(batch))
        return self._run(ops, batch)

    def _run(self, ops: Device, batch: ScheduledBatch) -> StepResult:
        """The step op by op."""
        ends = np.cumsum([s.num_tokens for s in batch.requests])
        yielding = [i for i, s in enumerate(batch.requests) if s.yields_token]
        asked = [i for i, s in enumerate(batch.requests) if _num_prompt_rows(s)]
        last_rows = [ends[i : i + 1] - 1 for i in yielding]
        prompt_rows = [
            ends[i] - batch.requests[i].num_tokens + np.arange(_num_prompt_rows(batch.requests[i])) for i in asked
        ]
        logit_rows = np.concatenate([*last_rows, *prompt_rows, []]).astype(np.int32)
        inputs, device_rows = step_inputs(ops, batch, self._cache.block_size, logit_rows)
        hidden = ops.model_forward(self._weights, self._cache.layers, inputs)
        result = StepResult([None] * len(ends), [None] * len(ends), _no_prompt_logprobs(batch))
        if yielding:
            logits = self._logits(ops, hidden, device_rows[: len(yielding)])
            chosen = self._sample(ops, [batch.requests[i].request for i in yielding], logits)
            for i, token_id, logprobs in zip(yielding, *chosen, strict=True):
                result.token_ids[i], result.logprobs[i] = token_id, logprobs
        start = len(yielding)
        for i in asked:
            stop = start + _num_prompt_rows(batch.requests[i])
            self._prompt_logprobs(ops, batch.requests[i], hidden, device_rows[start:stop], result.prompt_logprobs[i])
            start = stop
        return result

    def _logits(self, ops: Device, hidden: Buffer, rows: Buffer) -> Buffer:
        """[rows, V] float32."""
        return ops.lm_head(ops.gather_rows(hidden, rows), self._weights.lm_head)

    def _sample(
        self, ops: Device, requests: list[Request], logits: Buffer
    ) -> tuple[list[int | None], list[TokenLogprobs | None]]:
        """The next token of each, from its row of the logits, and its log probabilities where they are asked for."""
        sampling = self._sampling_of(requests)
        chosen = ops.sample(
            logits,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
            uniforms=sampling.uniforms,
        )
        logprobs: list[TokenLogprobs | None] = [None] * len(requests)
        if sampling.has_logprobs:
            wanted = np.flatnonzero(sampling.num_logprobs >= 0)
            dicts = _logprobs(ops.download(logits)[wanted], chosen[wanted], sampling.num_logprobs[wanted])
            for row, found in zip(wanted.tolist(), dicts, strict=True):
                logprobs[row] = found
        return chosen.tolist(), logprobs

    def _sampling_of(self, requests: list[Request]) -> SamplingBatch:
        """Made anew only where these are not the requests of the step before."""
        before, sampling = self._sampling
        make = sampling.next if before == requests else SamplingBatch.of
        sampling = make(requests, self._uniforms)
        self._sampling = requests, sampling
        return sampling

    def _prompt_logprobs(
        self, ops: Device, scheduled: ScheduledRequest, hidden: Buffer, rows: Buffer, found: dict[int, TokenLogprobs]
    ) -> None:
        """Row i of the chunk predicts the prompt token at position start + i + 1."""
        top = scheduled.request.sampling.prompt_logprobs
        for start in range(0, len(rows), PROMPT_ROWS):
            stop = min(start + PROMPT_ROWS, len(rows))
            positions = range(scheduled.start + start + 1, scheduled.start + stop + 1)
            tokens = np.array(scheduled.request.prompt_token_ids[positions.start : positions.stop], np.int64)
            logits = ops.download(self._logits(ops, hidden, rows[start:stop]))
            found.update(zip(positions, _logprobs(logits, tokens, np.full(len(tokens), top)), strict=True))


def _no_prompt_logprobs(batch: ScheduledBatch) -> list[dict[int, TokenLogprobs]]:
    return [{} for _ in batch.requests]


def _phase(batch: ScheduledBatch) -> str:
    if batch.num_decode == len(batch.requests):
        return "decode"
    return "mixed" if batch.num_decode else "prefill"


def _num_prompt_rows(scheduled: ScheduledRequest) -> int:
    """How many rows of the chunk predict a prompt token whose log probability is asked for."""
    request = scheduled.request
    if request.sampling.prompt_logprobs is None:
        return 0
    return max(0, min(scheduled.num_tokens, request.num_prompt_tokens - 1 - scheduled.start))


def _logprobs(
    logits: NDArray[np.float32], token_ids: NDArray[np.int64], num_top: NDArray[np.int64]
) -> list[TokenLogprobs]:
    """Per row [R] of logits [R, V]: the token's own log probability first, then those of its num_top best."""
    own, top_ids, top = token_logprobs(logits, token_ids, int(num_top.max()))
    dicts: list[TokenLogprobs] = []
    for row, token_id in enumerate(token_ids.tolist()):
        k = int(num_top[row])
        best = zip(top_ids[row, :k].tolist(), top[row, :k].tolist(), strict=True)
        dicts.append({token_id: float(own[row]), **dict(best)})
    return dicts


_EXECUTE = ModelRunner.execute.__code__
