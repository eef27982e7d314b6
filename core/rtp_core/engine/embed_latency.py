"""How fast a loaded encoder is: rounds of one batch of random prompts, through LLM.embed like any other."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np

from rtp_core.engine.latency import MIN_ROUNDS, random_prompts
from rtp_core.engine.llm import LLM
from rtp_core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class EmbedLatency:
    """`latency_ms_p50`: from token ids to the embeddings of the whole batch."""

    batch: int
    tokens: int
    latency_ms_p50: float
    sequences_per_s: float


def measure_embed(
    llm: LLM,
    batch: int,
    tokens: int,
    *,
    rounds: int = MIN_ROUNDS,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> EmbedLatency:
    """Embed `batch` prompts of `tokens` once to warm up, then `rounds` times others. `clock` tells seconds.

    Raises ConfigError for what cannot be measured, UnsupportedModelError for a model that generates.
    """
    for name, value, least in (("batch", batch, 1), ("tokens", tokens, 1), ("rounds", rounds, MIN_ROUNDS)):
        if value < least:
            raise ConfigError(f"{name}: {value}", where="bench embed", why=f"expected at least {least}")
    if tokens > llm.max_model_len:
        raise ConfigError(
            f"{tokens} tokens", where="bench embed", why=f"max_model_len is {llm.max_model_len}", hint="fewer tokens"
        )
    random = np.random.default_rng(seed)
    times = []
    for _ in range(rounds + 1):
        prompts = random_prompts(batch, tokens, llm.config.vocab_size, random)
        start = clock()
        llm.embed(prompts)
        times.append(clock() - start)
    middle = median(times[1:])
    return EmbedLatency(batch, tokens, middle * 1e3, batch / middle)
