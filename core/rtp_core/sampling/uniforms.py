"""The randomness of requests: a uniform for every output token, which depends on seed and token index alone.

Devices own no generator: they get uniforms, so every device draws alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rtp_core.request import Request

_AHEAD = 64  # uniforms drawn at once: making a generator takes far longer than drawing from it
_WORDS = 4  # of a block


def uniforms(seed: int, token_index: int, count: int = 1) -> list[float]:
    """The uniforms in [0, 1) behind output tokens from `token_index` on, of a request with that seed.

    A pure function: the same in every batch, on every device, and after a preemption.
    Source: Philox4x64-10, Salmon et al., SC'11. Key (seed, 0), counter token_index + 1 (NumPy counts up before
    it draws); the upper 53 bits of each block's first word, times 2^-53.
    """
    words = np.random.Philox(key=seed, counter=token_index).random_raw(_WORDS * count)[::_WORDS]
    drawn: list[float] = ((words >> np.uint64(11)) * 2.0**-53).tolist()
    return drawn


class Uniforms:
    """Of the requests that are asked for; some are drawn ahead, and kept as long as their request is asked for."""

    def __init__(self) -> None:
        self._drawn: dict[Request, tuple[int, list[float]]] = {}  # from which token on

    def of(self, requests: Sequence[Request]) -> NDArray[np.float64]:
        """[R], each for the request's next output token. Zeros for greedy requests, which draw nothing."""
        kept: dict[Request, tuple[int, list[float]]] = {}
        row = []
        for request in requests:
            if request.sampling.is_greedy:
                row.append(0.0)
                continue
            index = len(request.output_token_ids)
            first, drawn = self._drawn.get(request, (index, []))
            if not first <= index < first + len(drawn):
                first, drawn = index, uniforms(request.seed, index, _AHEAD)
            kept[request] = first, drawn
            row.append(drawn[index - first])
        self._drawn = kept
        return np.array(row, np.float64)
