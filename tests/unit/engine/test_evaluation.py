"""Windows of a text, and the sums over their positions, against NumPy written out."""

from __future__ import annotations

import numpy as np
import pytest

from rtp_core.engine.evaluation import Tally, windows
from rtp_core.errors import RequestError


def _distributions(rows: int, vocab: int, seed: int) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(0, 3, (rows, vocab))
    return (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)


@pytest.mark.parametrize(
    ("tokens", "context", "lengths"), [(2, 2, [2]), (7, 3, [3, 3]), (8, 3, [3, 3, 2]), (5, 9, [5]), (9, 3, [3, 3, 3])]
)
def test_windows_do_not_overlap_and_one_token_alone_is_left_out(tokens: int, context: int, lengths: list[int]) -> None:
    pieces = windows(range(tokens), context)
    assert [len(piece) for piece in pieces] == lengths
    assert [token for piece in pieces for token in piece] == list(range(sum(lengths)))


@pytest.mark.parametrize("tokens", [0, 1])
def test_a_text_with_nothing_to_score_is_an_error(tokens: int) -> None:
    with pytest.raises(RequestError, match=f"the text has {tokens} token.*at least two"):
        windows([7] * tokens, 10)
    with pytest.raises(RequestError, match="no token to score"):
        Tally().evaluation()


def test_means_are_over_positions_however_they_come() -> None:
    model, reference = _distributions(20, 50, 1), _distributions(20, 50, 2)
    following = np.random.default_rng(3).integers(50, size=20)
    tally = Tally()
    for start, stop in ((0, 1), (1, 12), (12, 20)):
        tally.add(model[start:stop], following[start:stop].tolist(), reference[start:stop])
    found = tally.evaluation()
    own, expected = model[range(20), following], reference[range(20), following]
    assert found.tokens == 20
    assert found.perplexity == pytest.approx(np.exp(-own.mean()), rel=1e-5)
    assert found.kl == pytest.approx((np.exp(reference) * (reference - model)).sum(axis=1).mean(), rel=1e-5)
    assert found.top1_agreement == np.mean(model.argmax(axis=1) == reference.argmax(axis=1))
    assert found.logprob_difference == pytest.approx(np.abs(own - expected).mean(), rel=1e-5)


def test_a_model_is_no_distance_from_itself() -> None:
    model, tally = _distributions(5, 30, 4), Tally()
    tally.add(model, [1, 2, 3, 4, 5], model)
    found = tally.evaluation()
    assert (found.kl, found.top1_agreement, found.logprob_difference) == (0, 1, 0)


def test_without_a_reference_there_is_no_distance() -> None:
    tally = Tally()
    tally.add(_distributions(3, 10, 5), [0, 1, 2])
    found = tally.evaluation()
    assert (found.kl, found.top1_agreement, found.logprob_difference) == (None, None, None)
