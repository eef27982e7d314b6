"""The embedder: token ids to embeddings in as few steps as the limits allow. An encoder's engine.

An encoder has nothing to schedule: every request is one part of one step, and then done.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from rtp_core.checkpoint.embedding_config import EmbeddingConfig
from rtp_core.engine.pooling import pool
from rtp_core.errors import RequestError
from rtp_core.runner.encoder_runner import EncoderRunner
from rtp_core.scheduler.scheduler_config import SchedulerConfig

Tokens = Sequence[int]


class Embedder:
    """Stateless between calls."""

    def __init__(self, runner: EncoderRunner, config: EmbeddingConfig, limits: SchedulerConfig) -> None:
        self._runner, self._config, self._limits = runner, config, limits

    def embed(self, requests: Sequence[Tokens]) -> NDArray[np.float32]:
        """One embedding each, in order: [R, width of an embedding]. There is at least one request.

        Raises RequestError, before any is served, for one that is empty or longer than the model goes.
        """
        longest = self._limits.max_model_len
        for i, tokens in enumerate(requests):
            if not 0 < len(tokens) <= longest:
                raise RequestError(
                    f"prompt {i} has {len(tokens)} tokens",
                    why=f"expected 1 to {longest}",
                    hint="give it as text, which is cut to fit, or split it",
                )
        parts = [pool(self._runner.execute(step), [*map(len, step)], self._config) for step in self._steps(requests)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _steps(self, requests: Sequence[Tokens]) -> Iterator[Sequence[Tokens]]:
        """The requests in order, as many in a step as fit."""
        start, num_tokens = 0, 0
        for i, tokens in enumerate(requests):
            is_full = num_tokens + len(tokens) > self._limits.max_num_batched_tokens
            if is_full or i - start == self._limits.max_num_seqs:
                yield requests[start:i]
                start, num_tokens = i, 0
            num_tokens += len(tokens)
        yield requests[start:]
