"""The sampling parameters of a batch as arrays, and the randomness that goes with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from rtp_core.request import Request
from rtp_core.sampling.uniforms import Uniforms


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
    def of(cls, requests: Sequence[Request], uniforms: Uniforms) -> Self:
        """Rows in the order of `requests`, each for the request's next output token. Greedy ones draw nothing."""
        sampling = [request.sampling for request in requests]
        return cls(
            temperature=np.array([s.temperature for s in sampling], np.float32),
            top_k=np.array([s.top_k for s in sampling], np.int64),
            top_p=np.array([s.top_p for s in sampling], np.float32),
            min_p=np.array([s.min_p for s in sampling], np.float32),
            uniforms=uniforms.of(requests),
            num_logprobs=np.array([-1 if s.logprobs is None else s.logprobs for s in sampling], np.int64),
            is_greedy=all(s.is_greedy for s in sampling),
            has_logprobs=any(s.logprobs is not None for s in sampling),
        )

    def next(self, requests: Sequence[Request], uniforms: Uniforms) -> Self:
        """The same requests, one output token later."""
        return self if self.is_greedy else replace(self, uniforms=uniforms.of(requests))
