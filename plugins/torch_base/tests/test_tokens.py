"""Greedy float32 tokens of small random checkpoints are the reference device's, op by op and replayed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import make_model, save
from mixed_gguf import MIXED, Mixed, write_mixed

from rtp_core import LLM, SamplingParams

BUDGET = 64 << 20  # bytes
SMALL = Mixed(
    arch="qwen2",
    heads=2,
    kv_heads=1,
    head_dim=32,
    inner=256,
    rope_theta=1e6,
    embedding="Q8_0",
    output=None,
    layers={
        "attn_q": ("Q4_0", "Q4_0"),
        "attn_k": ("Q4_0", "Q5_0"),
        "attn_v": ("Q4_0", "Q5_1"),
        "attn_output": ("Q4_1", "Q5_1"),
        "ffn_gate": ("Q5_0", "Q4_1"),
        "ffn_up": ("Q5_0", "Q4_1"),
        "ffn_down": ("Q8_0", "Q6_K"),
    },
    pre="qwen2",
)
FEW: dict[str, Any] = {"lengths": (9, 17, 3), "max_tokens": 4}  # for an interpreter of kernels


@pytest.fixture(scope="module", params=["llama_tied", "llama_biases", "qwen2_untied"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    save(make_model(request.param), folder)
    return folder


def tokens(
    model: Path,
    device: str,
    why_eager: str,
    lengths: Sequence[int] = (9, 1, 33, 17),
    max_tokens: int = 12,
    dtype: str = "float32",
    sizes: Sequence[int] = (),  # that are recorded
) -> list[list[int]]:
    rng = np.random.default_rng(11)
    greedy = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)
    prompts = [rng.integers(0, 256, length).tolist() for length in lengths]
    with LLM(str(model), device=device, dtype=dtype, memory_budget=BUDGET, max_num_batched_tokens=24) as llm:
        assert llm.why_eager == why_eager
        assert llm.device.info.id == f"{device}:0"
        found = [output.token_ids for output in llm.generate(prompts, greedy)]
        if not why_eager:
            assert sorted(llm._loaded.engine._runner._replay._recorded) == list(sizes)
        return found


@pytest.mark.usefixtures("plugin")
def test_greedy_tokens_are_the_references(checkpoint: Path) -> None:
    expected = tokens(checkpoint, "ref", "this device records no steps")
    assert tokens(checkpoint, "lazy", "an op of the plan reads context lengths on the host") == expected
    assert tokens(checkpoint, "lazy_graphs", "", sizes=(1, 2, 4)) == expected


@pytest.mark.usefixtures("plugin")
def test_greedy_tokens_through_kernels_are_the_references(tmp_path: Path) -> None:
    save(make_model("llama_biases"), tmp_path)
    expected = tokens(tmp_path, "ref", "this device records no steps", **FEW)
    assert tokens(tmp_path, "lazy_kernels", "", **FEW, sizes=(1, 2, 4)) == expected


@pytest.mark.usefixtures("plugin")
def test_greedy_tokens_of_packed_weights_are_the_references(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tied embedding, linear layers in every scheme that is packed, and one that stays plain."""
    monkeypatch.setitem(MIXED, "small", SMALL)
    file = write_mixed("small", tmp_path / "small.gguf")
    options = {**FEW, "lengths": (17,), "dtype": "auto"}
    expected = tokens(file, "ref", "this device records no steps", **options)
    assert tokens(file, "lazy_kernels", "", **options, sizes=(1,)) == expected
