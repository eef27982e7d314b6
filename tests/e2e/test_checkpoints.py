"""Small random checkpoints that transformers wrote, against transformers itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import SHAPES, make_model, save
from oracle import assert_greedy, log_softmax, logits_of

from rtp_core import LLM, SamplingParams
from rtp_core.device.loader import load_plugins
from rtp_core.errors import ConfigError
from rtp_core.memory.qbuffer import SCHEMES

PROMPT = "The quick brown fox jumps over the lazy dog, twice."
BUDGET = 256 << 20  # bytes

Saved = Callable[..., tuple[Path, torch.nn.Module]]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """saved(shape, dtype): the folder and what is stored in it, made once."""

    @cache
    def get(shape: str, dtype: torch.dtype = torch.float32) -> tuple[Path, torch.nn.Module]:
        folder = tmp_path_factory.mktemp(shape)
        return folder, save(make_model(shape), folder, dtype)

    return get


def assert_matches(folder: Path, model: torch.nn.Module, device: str, tolerance: float = 1e-3) -> None:
    """Prompt log probabilities within `tolerance` nats and the same greedy tokens."""
    with LLM(str(folder), device=device, dtype="float32", memory_budget=BUDGET) as llm:
        ids = llm.tokenizer.encode(PROMPT)
        params = SamplingParams(temperature=0, max_tokens=24, prompt_logprobs=0, ignore_eos=True)
        output = llm.generate([ids], params)[0]
    expected = log_softmax(logits_of(model, ids))[np.arange(len(ids) - 1), ids[1:]]
    got = [d[t] for d, t in zip(output.prompt_logprobs[1:], ids[1:], strict=True)]
    assert np.abs(np.array(got) - expected).max() < tolerance
    assert_greedy(model, ids, output.token_ids)


@pytest.mark.parametrize("device", ["ref", "cpu", "handle"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_random_checkpoint_gives_what_transformers_gives(shape: str, device: str, saved: Saved) -> None:
    assert_matches(*saved(shape), device)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=["f32", "f16", "bf16"])
@pytest.mark.parametrize("shape", ["llama_tied", "qwen2_untied"])
def test_every_stored_dtype_loads_exactly_in_float32(shape: str, dtype: torch.dtype, saved: Saved) -> None:
    assert_matches(*saved(shape, dtype), "cpu")


def test_a_sharded_checkpoint_is_one_model(tmp_path: Path) -> None:
    model = save(make_model("qwen2_untied"), tmp_path, shard="60KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert_matches(tmp_path, model, "cpu")


@pytest.mark.parametrize("dtype", ["auto", "bfloat16", "float16"])
@pytest.mark.parametrize("device", ["ref", "cpu", "handle"])
def test_other_precisions_stay_near_transformers(dtype: str, device: str, saved: Saved) -> None:
    folder, model = saved("llama_tied", torch.bfloat16)
    with LLM(str(folder), device=device, dtype=dtype, memory_budget=BUDGET) as llm:
        ids = llm.tokenizer.encode(PROMPT)
        output = llm.generate([ids], SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0))[0]
    expected = log_softmax(logits_of(model, ids))[np.arange(len(ids) - 1), ids[1:]]
    got = [d[t] for d, t in zip(output.prompt_logprobs[1:], ids[1:], strict=True)]
    assert np.abs(np.array(got) - expected).mean() < 0.1  # bfloat16 has 8 bits; a wrong op is off by nats


@cache
def schemes_of(device: str) -> tuple[str, ...]:
    (plugin,) = load_plugins(device)
    assert plugin.manifest is not None
    return plugin.manifest.schemes


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("device", ["ref", "cpu", "handle"])
def test_weights_quantized_at_load_stay_near_transformers(scheme: str, device: str, saved: Saved) -> None:
    folder, model = saved("llama_whole_blocks" if SCHEMES[scheme].super_group else "llama_tied")
    if scheme not in schemes_of(device):
        with pytest.raises(ConfigError, match=f"quantization is '{scheme}'"):
            LLM(str(folder), device=device, quantization=scheme, memory_budget=BUDGET)
        return
    with LLM(str(folder), device=device, quantization=scheme, memory_budget=BUDGET) as llm:
        ids = llm.tokenizer.encode(PROMPT)
        output = llm.generate([ids], SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0))[0]
    expected = log_softmax(logits_of(model, ids))[np.arange(len(ids) - 1), ids[1:]]
    got = [d[t] for d, t in zip(output.prompt_logprobs[1:], ids[1:], strict=True)]
    assert 1e-5 < np.abs(np.array(got) - expected).mean() < (0.1 if scheme == "q8_0" else 1.5)
