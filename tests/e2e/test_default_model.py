"""The default model's own file, in float32, on every device that computes, against transformers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from oracle import assert_greedy, log_softmax, logits_of

from rtp_core import LLM, SamplingParams

DEVICES = ["ref", "cpu", "handle"]
PROMPTS = [
    "The capital of France is",
    "def quicksort(items):\n",
    "Once upon a time, in a village by the sea,",
    "Water boils at 100 degrees because",
    "1, 1, 2, 3, 5, 8,",
    "Dear Sir or Madam,\n\nI am writing to",
    "今天天气",
    "SELECT name, COUNT(*) FROM",
]
NEW_TOKENS = 48

OpenModel = Callable[[str, str], LLM]
Expected = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def expected_logprobs(oracle_model: torch.nn.Module, open_model: OpenModel, texts: dict[str, str]) -> Expected:
    """Per text the log probability of every token but the first."""
    found = {}
    for name, text in texts.items():
        ids = open_model("ref", "float32").tokenizer.encode(text)
        assert len(ids) > 200
        found[name] = log_softmax(logits_of(oracle_model, ids))[np.arange(len(ids) - 1), ids[1:]]
    return found


@pytest.mark.parametrize("device", DEVICES)
def test_prompt_log_probabilities_are_those_of_transformers(
    device: str, open_model: OpenModel, expected_logprobs: Expected, texts: dict[str, str]
) -> None:
    params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
    for output in open_model(device, "float32").generate(list(texts.values()), params):
        name = next(name for name, text in texts.items() if text == output.prompt)
        assert output.prompt_logprobs is not None and output.prompt_logprobs[0] is None
        got = [d[t] for d, t in zip(output.prompt_logprobs[1:], output.prompt_token_ids[1:], strict=True) if d]
        difference = np.abs(np.array(got) - expected_logprobs[name])
        assert difference.max() < 1e-2 and difference.mean() < 1e-3, f"{name}: {difference.max()}, {difference.mean()}"


@pytest.mark.parametrize("device", DEVICES)
def test_greedy_tokens_are_those_of_transformers(
    device: str, open_model: OpenModel, oracle_model: torch.nn.Module
) -> None:
    params = SamplingParams(temperature=0, max_tokens=NEW_TOKENS, ignore_eos=True)
    for output in open_model(device, "float32").generate(PROMPTS, params):
        assert len(output.token_ids) == NEW_TOKENS
        assert_greedy(oracle_model, output.prompt_token_ids, output.token_ids)


def test_the_fast_path_answers_a_question(open_model: OpenModel) -> None:
    llm = open_model("cpu", "auto")
    question = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
    output = llm.chat(question, SamplingParams(temperature=0, max_tokens=24))[0]
    assert "Paris" in output.text and "<|im_end|>" not in output.text
    assert output.finish_reason == "stop" and output.token_ids[-1] in llm.tokenizer.special_ids


def test_quantized_weights_stay_quantized_in_memory(open_model: OpenModel) -> None:
    """The 98 MB file may not grow by more than padding and what is not weights in the arena's count of weights."""
    totals = open_model("cpu", "auto").device.arena.totals()
    weights = sum(n for tag, n in totals.items() if tag.endswith(("proj", "weight")))
    assert 95e6 < weights < 110e6, totals
