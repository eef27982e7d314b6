"""What only a GPU can tell: `tox -e cuda`, `tox -e rocm`. Without one, a skip that says why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from checkpoints import make_model, save

from rtp_core import LLM, SamplingParams
from rtp_core.conformance.isolated import run_isolated
from rtp_core.device.loader import State, load_plugins

GREEDY = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)


@pytest.fixture(params=["cuda", "rocm"])
def kind(request: pytest.FixtureRequest) -> str:
    (plugin,) = load_plugins(request.param)
    if plugin.state is not State.AVAILABLE:
        pytest.skip(f"{plugin.kind} is {plugin.state}: {plugin.reason}")
    return plugin.kind


def test_the_device_passes_at_perf(kind: str) -> None:
    assert [outcome for outcome in run_isolated(kind, "perf").outcomes if not outcome.has_passed] == []


@pytest.mark.parametrize("shape", ["llama_tied", "llama_biases", "qwen2_untied"])
def test_greedy_float32_tokens_are_the_references(kind: str, shape: str, tmp_path: Path) -> None:
    save(make_model(shape), tmp_path)
    rng = np.random.default_rng(11)
    prompts = [rng.integers(0, 256, length).tolist() for length in (9, 1, 33, 17)]
    found = []
    for device in ("ref", kind):
        with LLM(str(tmp_path), device=device, dtype="float32") as llm:
            found.append([output.token_ids for output in llm.generate(prompts, GREEDY)])
    assert found[0] == found[1]
