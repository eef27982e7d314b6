"""Perplexity and distances of a small random model, against transformers and NumPy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import make_model, save
from oracle import log_softmax, logits_of

from rtp_core import LLM, SamplingParams
from rtp_core.engine.evaluation import Evaluation, checked_context, evaluations, windows
from rtp_core.errors import ConfigError, RequestError

OPTIONS = {"device": "cpu", "memory_budget": 256 << 20, "max_num_batched_tokens": 100}  # a window takes several steps
TOKENS = np.random.default_rng(5).integers(256, size=401).tolist()
CONTEXT = 180  # windows of 180, 180 and 41 tokens


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.nn.Module]:
    folder = tmp_path_factory.mktemp("llama")
    return folder, save(make_model("llama_tied"), folder)


@pytest.fixture(scope="module")
def exact(saved: tuple[Path, torch.nn.Module]) -> Iterator[LLM]:
    with LLM(str(saved[0]), dtype="float32", **OPTIONS) as llm:
        yield llm


@pytest.fixture(scope="module")
def quantized(saved: tuple[Path, torch.nn.Module]) -> Iterator[LLM]:
    with LLM(str(saved[0]), quantization="q8_0", **OPTIONS) as llm:
        yield llm


def last(llm: LLM, reference: LLM | None = None) -> Evaluation:
    *_, found = evaluations(llm, windows(TOKENS, CONTEXT), reference)
    return found


def test_scores_are_the_distributions_of_transformers(exact: LLM, saved: tuple[Path, torch.nn.Module]) -> None:
    chunks = list(exact.score(TOKENS[:200]))
    assert all(len(chunk) <= 64 and chunk.dtype == np.float32 for chunk in chunks)
    expected = log_softmax(logits_of(saved[1], TOKENS[:200]))
    np.testing.assert_allclose(np.concatenate(chunks), expected, atol=2e-3)


def test_perplexity_is_that_of_transformers(exact: LLM, saved: tuple[Path, torch.nn.Module]) -> None:
    own = [
        log_softmax(logits_of(saved[1], TOKENS[start:stop]))[range(stop - start - 1), TOKENS[start + 1 : stop]]
        for start, stop in ((0, 180), (180, 360), (360, 401))
    ]
    found = last(exact)
    assert found.tokens == 398
    assert found.perplexity == pytest.approx(np.exp(-np.concatenate(own).mean()), rel=1e-3)


def test_distances_are_those_of_the_scores(exact: LLM, quantized: LLM) -> None:
    ours, reference, following = [], [], []
    for piece in windows(TOKENS, CONTEXT):
        ours.append(np.concatenate(list(quantized.score(piece)))[:-1].astype(np.float64))
        reference.append(np.concatenate(list(exact.score(piece)))[:-1].astype(np.float64))
        following += piece[1:]
    p, q, rows = np.concatenate(reference), np.concatenate(ours), range(len(following))
    found = last(quantized, exact)
    assert found.kl == pytest.approx((np.exp(p) * (p - q)).sum(axis=1).mean(), rel=1e-6)
    assert 0 < found.kl < 0.1
    assert found.top1_agreement == np.mean(p.argmax(axis=1) == q.argmax(axis=1))
    assert found.logprob_difference == pytest.approx(np.abs(q - p)[rows, following].mean(), rel=1e-6)


def test_scores_left_unread_give_their_blocks_back(exact: LLM) -> None:
    scores = exact.score(TOKENS[:150])
    next(scores)
    with pytest.raises(RequestError, match="other requests are unfinished"):
        next(exact.score([1, 2, 3]))
    scores.close()
    assert len(exact.generate([[1, 2, 3]], SamplingParams(temperature=0, max_tokens=2))[0].token_ids) == 2


def test_a_running_stream_is_not_disturbed(exact: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
    alone = [progress.token_id for progress in exact.stream([1, 2, 3], params)]
    stream = exact.stream([1, 2, 3], params)
    begun = [next(stream).token_id]
    with pytest.raises(RequestError, match="other requests are unfinished"):
        next(exact.score([1, 2, 3]))
    assert begun + [progress.token_id for progress in stream] == alone


def test_windows_are_what_the_model_takes(exact: LLM) -> None:
    assert checked_context(exact, None) == 255
    for asked in (1, 256):
        with pytest.raises(ConfigError, match="expected 2 to 255"):
            checked_context(exact, asked)
