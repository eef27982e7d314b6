"""The sampling parameters of a batch as arrays, and the randomness that goes with them.

Devices own no generator: they get uniforms, so every device draws alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from rtp_core.request import Request


def uniform(seed: int, token_index: int) -> float:
    """The uniform in [0, 1) behind output token `token_index` of a request with that seed.

    A pure function: the same in every batch, on every device, and after a preemption.
    Source: Philox4x64-10, Salmon et al., SC'11. Key (seed, 0), counter token_index + 1 (NumPy counts up before
    it draws); the upper 53 bits of the block's first word, times 2^-53.
    """
    word = np.random.Philox(key=seed, counter=token_index).random_raw()
    return (int(word) >> 11) * 2.0**-53


@dataclass(frozen=True, slots=True, eq=False)
class SamplingBatch:
    """Arguments of the op `sample`, a row for every request that gets a token: all [R].

    num_logprobs: the request's `logprobs`; -1 where they are off. is_greedy: all are. has_logprobs: some are on.
    """

    temperature: NDArray[np.float32]
    top_k: NDArray[np.int64]
    top_p: NDArray[np.float32]
    min_p: NDArray[np.float32]
    uniforms: NDArray[np.float64]
    num_logprobs: NDArray[np.int64]
    is_greedy: bool
    has_logprobs: bool

    @classmethod
    def of(cls, requests: Sequence[Request]) -> Self:
        """Rows in the order of `requests`, each for the request's next output token. Greedy ones draw nothing."""
        sampling = [request.sampling for request in requests]
        return cls(
            temperature=np.array([s.temperature for s in sampling], np.float32),
            top_k=np.array([s.top_k for s in sampling], np.int64),
            top_p=np.array([s.top_p for s in sampling], np.float32),
            min_p=np.array([s.min_p for s in sampling], np.float32),
            uniforms=_uniforms(requests),
            num_logprobs=np.array([-1 if s.logprobs is None else s.logprobs for s in sampling], np.int64),
            is_greedy=all(s.is_greedy for s in sampling),
            has_logprobs=any(s.logprobs is not None for s in sampling),
        )

    def next(self, requests: Sequence[Request]) -> Self:
        """The same requests, one output token later."""
        return self if self.is_greedy else replace(self, uniforms=_uniforms(requests))


def _uniforms(requests: Sequence[Request]) -> NDArray[np.float64]:
    """[R]; zeros for greedy requests."""
    drawn = [0.0 if r.sampling.is_greedy else uniform(r.seed, len(r.output_token_ids)) for r in requests]
    return np.array(drawn, np.float64)
