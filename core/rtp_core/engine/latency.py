"""How fast a loaded model is: rounds of one batch of random prompts, timed step by step.

Distinct random token ids, so that nothing can be reused between prompts; greedy, past any EOS, all at once
through the same engine as any other request.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np

from rtp_core.engine.llm import LLM
from rtp_core.errors import ConfigError
from rtp_core.request import SamplingParams

MIN_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Latency:
    """Medians over the rounds. Speeds over the whole batch; ttft ends when every request has its first token.

    itl: the time between two tokens of one request. Speed and itl of decoding are 0 for a single output token.
    """

    batch: int
    prompt_tokens: int
    output_tokens: int
    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    ttft_ms: float
    itl_ms_p50: float
    itl_ms_p99: float


@dataclass(frozen=True, slots=True)
class Load:
    """What one round asks of the engine: `batch` prompts of the same length, and tokens of output for each."""

    batch: int
    prompt_tokens: int
    output_tokens: int


def measure(
    llm: LLM, load: Load, *, rounds: int = MIN_ROUNDS, seed: int = 0, clock: Callable[[], float] = time.perf_counter
) -> Latency:
    """Run `load` once to warm up, then `rounds` times. `seed` chooses the prompts; `clock` tells seconds.

    Raises ConfigError where the model or the KV cache is too small for it.
    """
    _check(llm, load, rounds)
    random = np.random.default_rng(seed)
    measured = [_round(llm, load, random, clock) for _ in range(rounds + 1)][1:]

    def middle(name: str) -> float:
        return float(median(getattr(latency, name) for latency in measured))

    return Latency(
        load.batch,
        load.prompt_tokens,
        load.output_tokens,
        prefill_tokens_per_s=middle("prefill_tokens_per_s"),
        decode_tokens_per_s=middle("decode_tokens_per_s"),
        ttft_ms=middle("ttft_ms"),
        itl_ms_p50=middle("itl_ms_p50"),
        itl_ms_p99=middle("itl_ms_p99"),
    )


def _check(llm: LLM, load: Load, rounds: int) -> None:
    for name, value, least in (
        ("batch", load.batch, 1),
        ("prompt tokens", load.prompt_tokens, 1),
        ("output tokens", load.output_tokens, 1),
        ("rounds", rounds, MIN_ROUNDS),
    ):
        if value < least:
            raise ConfigError(f"{name}: {value}", where="bench latency", why=f"expected at least {least}")
    num_tokens = load.prompt_tokens + load.output_tokens
    if num_tokens > llm.max_model_len:
        raise ConfigError(
            f"{num_tokens} prompt and output tokens",
            where="bench latency",
            why=f"max_model_len is {llm.max_model_len}",
            hint="fewer tokens, or raise --max-model-len",
        )


def _round(llm: LLM, load: Load, random: np.random.Generator, clock: Callable[[], float]) -> Latency:
    sampling = SamplingParams(temperature=0, max_tokens=load.output_tokens, ignore_eos=True)
    times: dict[str, list[float]] = {}  # by request, when each of its tokens came
    prompts = random_prompts(load.batch, load.prompt_tokens, llm.config.vocab_size, random)
    start = clock()
    for progress in llm.stream_batch(prompts, sampling):
        if progress.token_id is not None:
            times.setdefault(progress.request_id, []).append(clock())
    end = clock()
    fewest = min(len(tokens) for tokens in times.values())
    if fewest != load.output_tokens:
        raise ConfigError(
            f"a request ended after {fewest} of {load.output_tokens} tokens",
            where="bench latency",
            why="the KV cache is too small",
            hint="raise --memory-budget, or fewer tokens",
        )
    ttft = max(tokens[0] for tokens in times.values()) - start
    intervals = np.concatenate([np.diff(tokens) for tokens in times.values()]) * 1e3
    decoded = load.batch * (load.output_tokens - 1)
    return Latency(
        load.batch,
        load.prompt_tokens,
        load.output_tokens,
        prefill_tokens_per_s=load.batch * load.prompt_tokens / ttft,
        decode_tokens_per_s=decoded / (end - start - ttft) if decoded else 0.0,
        ttft_ms=ttft * 1e3,
        itl_ms_p50=float(np.percentile(intervals, 50)) if decoded else 0.0,
        itl_ms_p99=float(np.percentile(intervals, 99)) if decoded else 0.0,
    )


def random_prompts(batch: int, tokens: int, vocab_size: int, random: np.random.Generator) -> list[list[int]]:
    """Prompts of `tokens` each that differ in their first one, as far as the vocabulary goes."""
    prompts = random.integers(vocab_size, size=(batch, tokens))
    prompts[:, 0] = random.choice(vocab_size, batch, replace=batch > vocab_size)
    return [[int(token) for token in prompt] for prompt in prompts]
