"""The fast path is as near to float32 as llama.cpp is on the same file and texts (its figures are recorded)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import quality

from rtp_core import LLM

RECORDED = json.loads((Path(__file__).parent.parent / "data" / "quality_llama_cpp.json").read_text(encoding="utf-8"))
MARGIN = 1.05

OpenModel = Callable[[str, str], LLM]


@pytest.fixture(scope="module")
def token_ids(open_model: OpenModel) -> dict[str, list[int]]:
    return quality.texts(open_model("cpu", "auto").tokenizer.encode)


def test_in_prefill(open_model: OpenModel, token_ids: dict[str, list[int]]) -> None:
    found = quality.prefill(open_model("cpu", "auto"), open_model("cpu", "float32"), token_ids)
    assert set(found) == set(RECORDED["prefill"]) == {"code", "english", "mixed"}
    for name, evaluation in found.items():
        assert evaluation.logprob_difference is not None
        assert 0 < evaluation.logprob_difference <= MARGIN * RECORDED["prefill"][name], f"{name}: {evaluation}"


def test_in_decode_alone_and_in_a_batch(open_model: OpenModel, token_ids: dict[str, list[int]]) -> None:
    """At batch 16 all completions; at batch 1 every fourth, which must be the very same numbers."""
    starts = quality.prompts(token_ids)
    together = quality.generate(open_model("cpu", "auto"), starts, quality.NUM_PROMPTS)
    distance = quality.decode_distance(open_model("cpu", "float32"), together)
    assert 0 < distance <= MARGIN * RECORDED["decode"]["16"], distance
    for i in range(0, quality.NUM_PROMPTS, 4):
        output = open_model("cpu", "auto").generate([starts[i]], quality.sampling(i))[0]
        assert output.token_ids == together[i][1]
        assert quality.own_scores(output.logprobs, output.token_ids) == pytest.approx(together[i][2], abs=1e-5)
