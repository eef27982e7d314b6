"""How good a model is on a text: perplexity, and how far its distributions are from those of a reference.

A text is cut into windows that do not overlap. Every token is scored with those before it in its window; the first
token of a window has none before it, and is not scored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import exp

import numpy as np
from numpy.typing import NDArray

from rtp_core.engine.llm import LLM
from rtp_core.errors import ConfigError, RequestError

DEFAULT_CONTEXT = 2048  # tokens of a window, where the model takes as many

Logprobs = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Over `tokens` scored tokens. Against a reference, else None: kl, the mean of KL(reference || model) in nats;
    top1_agreement, the share of positions with the same most probable token; logprob_difference, the mean absolute
    difference of the log probability of the text's own token, in nats.
    """

    tokens: int
    perplexity: float
    kl: float | None = None
    top1_agreement: float | None = None
    logprob_difference: float | None = None


class Tally:
    """Sums over the positions seen so far, in float64."""

    def __init__(self) -> None:
        self._tokens, self._compared, self._agreed = 0, 0, 0
        self._own, self._kl, self._difference = 0.0, 0.0, 0.0

    def add(self, logprobs: Logprobs, next_ids: Sequence[int], reference: Logprobs | None = None) -> None:
        """Positions with what follows them. logprobs, reference: [rows, V], natural; next_ids: [rows]."""
        rows = np.arange(len(next_ids))
        own = logprobs[rows, next_ids].astype(np.float64)
        self._tokens += len(rows)
        self._own += float(own.sum())
        if reference is None:
            return
        self._compared += len(rows)
        self._agreed += int((logprobs.argmax(axis=1) == reference.argmax(axis=1)).sum())
        self._difference += float(np.abs(own - reference[rows, next_ids]).sum())
        self._kl += sum(map(_kl, reference, logprobs))

    def evaluation(self) -> Evaluation:
        """The means. Raises RequestError where nothing was scored."""
        if self._tokens == 0:
            raise RequestError("no token to score", why="expected a text of at least two tokens")
        perplexity = exp(-self._own / self._tokens)
        if self._compared == 0:
            return Evaluation(self._tokens, perplexity)
        means = (total / self._compared for total in (self._kl, self._agreed, self._difference))
        return Evaluation(self._tokens, perplexity, *means)


def windows(token_ids: Sequence[int], context: int) -> list[Sequence[int]]:
    """Pieces of `context` tokens, the last one shorter; one of a single token would score nothing and is left out.

    Raises RequestError for a text of less than two tokens.
    """
    if len(token_ids) < 2:
        raise RequestError(
            f"the text has {len(token_ids)} token{'s' * (len(token_ids) != 1)}",
            why="a token is scored with those before it: expected at least two",
            hint="a longer text",
        )
    pieces = (token_ids[start : start + context] for start in range(0, len(token_ids), context))
    return [piece for piece in pieces if len(piece) > 1]


def checked_context(llm: LLM, asked: int | None) -> int:
    """Tokens of a window. Raises ConfigError for less than two, and for more than the model takes."""
    longest = llm.max_model_len - 1  # the engine keeps room for a token of output
    context = min(DEFAULT_CONTEXT, longest) if asked is None else asked
    if not 2 <= context <= longest:
        raise ConfigError(f"a context of {context} tokens", where="evaluation", why=f"expected 2 to {longest}")
    return context


def evaluations(llm: LLM, pieces: Iterable[Sequence[int]], reference: LLM | None = None) -> Iterator[Evaluation]:
    """What is known after each window. `reference` is the same model under the same limits; it runs beside `llm`,
    some rows at a time.

    Raises RequestError for a window that can never be served.
    """
    tally = Tally()
    for piece in pieces:
        start, last = 0, len(piece) - 1  # nothing is known of what follows the last token
        for logprobs, expected in _rows(llm, reference, piece):
            stop = min(start + len(logprobs), last)
            known = slice(0, stop - start)
            tally.add(logprobs[known], piece[start + 1 : stop + 1], None if expected is None else expected[known])
            start = stop
        yield tally.evaluation()


def _rows(llm: LLM, reference: LLM | None, token_ids: Sequence[int]) -> Iterable[tuple[Logprobs, Logprobs | None]]:
    if reference is None:
        return ((logprobs, None) for logprobs in llm.score(token_ids))
    return zip(llm.score(token_ids), reference.score(token_ids), strict=True)


def _kl(reference: Logprobs, logprobs: Logprobs) -> float:
    """KL(reference || model) of one position [V]. Row by row: the scratch stays in cache."""
    weights = np.exp(reference, dtype=np.float64)
    return float(weights @ (reference - logprobs).astype(np.float64))
