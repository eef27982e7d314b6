"""Greedy float32 tokens of small random checkpoints are the reference device's, op by op and replayed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from checkpoints import make_model, save

from rtp_core import LLM, SamplingParams

BUDGET = 64 << 20  # bytes
GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)


@pytest.fixture(scope="module", params=["llama_tied", "llama_biases", "qwen2_untied"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    save(make_model(request.param), folder)
    return folder


def tokens(folder: Path, device: str, why_eager: str) -> list[list[int]]:
    rng = np.random.default_rng(11)
    prompts = [rng.integers(0, 256, length).tolist() for length in (9, 1, 33, 17)]
    with LLM(str(folder), device=device, dtype="float32", memory_budget=BUDGET, max_num_batched_tokens=24) as llm:
        assert llm.why_eager == why_eager
        assert llm.device.info.id == f"{device}:0"
        return [output.token_ids for output in llm.generate(prompts, GREEDY)]


@pytest.mark.usefixtures("plugin")
def test_greedy_tokens_are_the_references(checkpoint: Path) -> None:
    expected = tokens(checkpoint, "ref", "this device records no steps")
    assert tokens(checkpoint, "lazy", "an op of the plan reads context lengths on the host") == expected
    assert tokens(checkpoint, "lazy_graphs", "") == expected
