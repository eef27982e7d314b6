"""The steps that take the most memory of all that the scheduler may ask for. Warm-up runs them."""

from __future__ import annotations

from collections.abc import Iterator

from rtp_core.request import Request, SamplingParams
from rtp_core.runner.model_runner import PROMPT_ROWS
from rtp_core.scheduled_batch import ScheduledBatch, ScheduledRequest
from rtp_core.scheduler.scheduler_config import SchedulerConfig

_GREEDY = SamplingParams(temperature=0.0)
_SAMPLED = SamplingParams(temperature=1.0, top_k=50, top_p=0.9, min_p=0.01)
_SCORED = SamplingParams(temperature=0.0, logprobs=0, prompt_logprobs=0)
_STRIDE = 7919  # a prime: prompts have tokens of all kinds


def worst_encoder_steps(limits: SchedulerConfig, vocab_size: int) -> Iterator[list[list[int]]]:
    """Token ids of requests: as many of the longest as fit, as many as may be at once, and one alone."""
    tokens, requests, longest = limits.max_num_batched_tokens, limits.max_num_seqs, limits.max_model_len
    known = [i * _STRIDE % vocab_size for i in range(longest)]
    whole, rest = divmod(tokens, longest)
    lengths = [*[longest] * whole, *[rest] * (rest > 0)]
    yield [known[:length] for length in lengths[:requests]]
    if requests > 1:
        shares = (tokens // requests + (i < tokens % requests) for i in range(requests))
        yield [known[: min(share, longest)] for share in shares]
        yield [known]


def worst_steps(
    limits: SchedulerConfig, vocab_size: int, block_size: int, features: frozenset[str]
) -> Iterator[ScheduledBatch]:
    """One prompt as long as a step allows, plain and with scores; many that share a step; decodes; decodes and one.

    Every context is as long as it can be. All block tables name block 0: whose keys and values are read makes no
    difference, so a cache of one block is enough.
    """
    context = max(1, limits.max_model_len - 1)  # the last token of a request is never computed
    tokens, requests = limits.max_num_batched_tokens, limits.max_num_seqs
    longest = min(tokens, context)
    known = tuple(i * _STRIDE % vocab_size for i in range(context))
    table = (0,) * -(-context // block_size)

    def last(num_tokens: int, sampling: SamplingParams = _GREEDY, num_prompt: int = context) -> ScheduledRequest:
        """The last tokens of a request; those after its prompt are outputs that are computed again."""
        request = Request(
            request_id="warm-up",
            prompt_token_ids=known[:num_prompt],
            output_token_ids=list(known[num_prompt:]),
            sampling=sampling,
            seed=0,
            features=features,
        )
        return ScheduledRequest(request, context - num_tokens, num_tokens, table)

    def step(decodes: int, *prefills: ScheduledRequest) -> ScheduledBatch:
        scheduled = (*[last(1)] * decodes, *prefills)
        return ScheduledBatch(scheduled, (), sum(s.num_tokens for s in scheduled), decodes)

    yield step(0, last(longest))
    # Scores take the logits of so many positions at a time: more of them take time, and no memory.
    yield step(0, last(longest, _SCORED, min(context, context - longest + PROMPT_ROWS + 1)))
    if requests > 1:
        shares = (tokens // requests + (i < tokens % requests) for i in range(requests))
        yield step(0, *(last(min(share, context), _SAMPLED) for share in shares))
    if context > 1:
        yield step(1)  # alone it may be split over its context
        yield step(requests)
        rest = min(tokens - requests + 1, context)
        if requests > 1 and rest > 1:
            yield step(requests - 1, last(rest))
