"""Checkpoints in the formats of compressed-tensors, against transformers with the weights that they mean."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import make_model, save
from oracle import assert_greedy, log_softmax, logits_of
from safetensors.torch import load_file, save_file

from rtp_core import LLM, SamplingParams
from rtp_core.engine.engine_config import EngineConfig
from rtp_core.engine.explaining import explain_plan

PROMPT = "The quick brown fox jumps over the lazy dog, twice."
BUDGET = 256 << 20  # bytes
FORMATS = {"fp8_channel": ("float", torch.float8_e4m3fn, 448), "int8_channel": ("int", torch.int8, 127)}


def compress(folder: Path, scheme: str, strategy: str) -> dict[str, torch.Tensor]:
    """Quantize the linear layers of a saved model, all but lm_head. Returns what the new weights mean."""
    kind, dtype, largest = FORMATS[scheme]
    meant, stored = {}, {}
    for name, weight in load_file(folder / "model.safetensors").items():
        if "_proj.weight" not in name:
            stored[name] = weight
            continue
        peaks = weight.abs().amax(dim=1, keepdim=True) if strategy == "channel" else weight.abs().max().reshape(1)
        scales = (peaks / largest).to(torch.bfloat16)
        exact = (weight / scales.float()).clamp(-largest, largest)
        stored[name] = (exact.round() if kind == "int" else exact).to(dtype)
        stored[f"{name}_scale"] = scales
        meant[name] = stored[name].float() * scales.float()
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    numbers = {"num_bits": 8, "type": kind, "symmetric": True}
    group = {
        "targets": ["Linear"],
        "weights": numbers | {"strategy": strategy, "dynamic": False},
        "input_activations": numbers | {"strategy": "token", "dynamic": True},
    }
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": f"{kind}-quantized",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }
    (folder / "config.json").write_text(json.dumps(config))
    return meant


@pytest.mark.parametrize("scheme", FORMATS)
@pytest.mark.parametrize("device", ["ref", "cpu", "handle"])
@pytest.mark.parametrize(("dtype", "limit"), [("float32", 1e-3), ("auto", 0.02)])
@pytest.mark.parametrize(("shape", "strategy"), [("llama_biases", "channel"), ("qwen2_tied", "tensor")])
def test_a_compressed_checkpoint_gives_what_its_weights_mean(
    shape: str, strategy: str, dtype: str, limit: float, device: str, scheme: str, tmp_path: Path
) -> None:
    model = save(make_model(shape), tmp_path)
    meant = compress(tmp_path, scheme, strategy)
    assert meant
    model.load_state_dict(meant, strict=False)
    with LLM(str(tmp_path), device=device, dtype=dtype, memory_budget=BUDGET) as llm:
        ids = llm.tokenizer.encode(PROMPT)
        params = SamplingParams(temperature=0, max_tokens=12, prompt_logprobs=0, ignore_eos=True)
        output = llm.generate([ids], params)[0]
    expected = log_softmax(logits_of(model, ids))[np.arange(len(ids) - 1), ids[1:]]
    got = [d[t] for d, t in zip(output.prompt_logprobs[1:], ids[1:], strict=True)]
    assert np.abs(np.array(got) - expected).mean() < limit
    if dtype == "float32":
        assert_greedy(model, ids, output.token_ids)


@pytest.mark.parametrize("scheme", FORMATS)
def test_weights_stay_quantized_where_the_device_has_the_scheme(scheme: str, tmp_path: Path) -> None:
    """Elsewhere they are dequantized at load. What the plan is told from headers is what is loaded."""
    save(make_model("llama_biases"), tmp_path)
    compress(tmp_path, scheme, "channel")
    for device, expected in (("ref", scheme), ("handle", scheme), ("cpu", "none")):
        with LLM(str(tmp_path), device=device, memory_budget=BUDGET, max_model_len=64, max_num_seqs=1) as llm:
            met = llm.plan.demand.schemes
            plan = llm.plan
        assert {op: met[op] for op in ("qkv_linear", "ffn_layer", "gather_rows", "lm_head")} == {
            "qkv_linear": (expected,), "ffn_layer": (expected,), "gather_rows": ("none",), "lm_head": ("none",)
        }  # fmt: skip
        assert explain_plan(tmp_path, EngineConfig(device=device)).rows == plan.rows
