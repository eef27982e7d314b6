"""Files that mix many quantized types load on every device and give what transformers gives on the same numbers."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mixed_gguf import MIXED, write_mixed
from oracle import assert_greedy, log_softmax, logits_of, model_of_gguf

from rtp_core import LLM, SamplingParams
from rtp_core.checkpoint import gguf_blocks
from rtp_core.checkpoint.opening import open_checkpoint
from rtp_core.device.choice import Offer, Wishes
from rtp_core.device.manifest import Manifest
from rtp_core.device.plan import explained_rows
from rtp_core.device.reference import MANIFEST
from rtp_core.engine.engine_config import EngineConfig
from rtp_core.engine.explaining import explain_plan
from rtp_core.engine.forecast import forecast
from rtp_core.memory.qbuffer import SCHEMES
from rtp_core.models.model import demand_of_header
from rtp_core.models.weight_reader import Precision

RECORDED = json.loads((Path(__file__).parent.parent / "data" / "mixed_gguf_llama_cpp.json").read_text(encoding="utf-8"))
PROMPT = "The quick brown fox jumps over the lazy dog, twice."
BUDGET = 256 << 20  # bytes

each_model = pytest.mark.parametrize("name", MIXED)
each_device = pytest.mark.parametrize("device", ["ref", "cpu", "handle"])


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, torch.nn.Module]]:
    """The file and transformers' model of a name, made once."""
    folder, made = tmp_path_factory.mktemp("mixed"), {}

    def get(name: str) -> tuple[Path, torch.nn.Module]:
        if name not in made:
            path = write_mixed(name, folder / f"{name}.gguf")
            made[name] = path, model_of_gguf(path)
        return made[name]

    return get


def scores(llm: LLM, ids: list[int]) -> np.ndarray:
    output = llm.generate([ids], SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0))[0]
    return np.array([d[t] for d, t in zip(output.prompt_logprobs[1:], ids[1:], strict=True)])


def own(logits: np.ndarray, ids: list[int]) -> np.ndarray:
    return log_softmax(logits)[np.arange(len(ids) - 1), ids[1:]]


@each_device
@each_model
def test_float32_is_what_transformers_gives_on_the_dequantized_weights(
    name: str, device: str, mixed: Callable[[str], tuple[Path, torch.nn.Module]]
) -> None:
    path, model = mixed(name)
    with LLM(str(path), device=device, dtype="float32", memory_budget=BUDGET) as llm:
        ids = llm.tokenizer.encode(PROMPT)
        params = SamplingParams(temperature=0, max_tokens=24, prompt_logprobs=0, ignore_eos=True)
        output = llm.generate([ids], params)[0]
    got = np.array([d[t] for d, t in zip(output.prompt_logprobs[1:], ids[1:], strict=True)])
    np.testing.assert_allclose(got, own(logits_of(model, ids), ids), atol=1e-3)
    assert_greedy(model, ids, output.token_ids)


@each_device
@each_model
def test_quantized_as_stored_stays_near(
    name: str, device: str, mixed: Callable[[str], tuple[Path, torch.nn.Module]]
) -> None:
    """Weights keep their schemes where the device has them; the others are dequantized at load."""
    path, model = mixed(name)
    with LLM(str(path), device=device, memory_budget=BUDGET) as llm:
        ids = llm.tokenizer.encode(PROMPT)
        distance = np.abs(scores(llm, ids) - own(logits_of(model, ids), ids))
        assert distance.mean() < 0.1
        met = set().union(*llm.plan.demand.schemes.values()) - {"none"}
    stored = {kind.lower() for kinds in MIXED[name].layers.values() for kind in kinds} & SCHEMES.keys()
    if device in ("ref", "handle"):
        assert met >= stored


@each_device
@each_model
def test_the_plan_is_told_without_unpacking_a_block(
    name: str, device: str, mixed: Callable[[str], tuple[Path, torch.nn.Module]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = mixed(name)
    with LLM(str(path), device=device, memory_budget=BUDGET, max_model_len=64, max_num_seqs=1) as llm:
        plan = llm.plan
    monkeypatch.setattr(gguf_blocks, "_UNPACK", dict.fromkeys(gguf_blocks._UNPACK, lambda _: pytest.fail("unpacked")))
    told = explain_plan(path, EngineConfig(device=device))
    assert told.hash == plan.hash
    assert told.rows == plan.rows


@pytest.mark.parametrize("device", ["ref", "cpu"])
@each_model
def test_a_start_takes_the_memory_that_was_forecast(
    name: str, device: str, mixed: Callable[[str], tuple[Path, torch.nn.Module]]
) -> None:
    path, _ = mixed(name)
    options = {"device": device, "memory_budget": BUDGET, "max_model_len": 64, "max_num_seqs": 2}
    told = forecast(open_checkpoint(path), options)
    with LLM(str(path), **options) as llm:
        stats = llm.memory.stats
        kv_bytes = sum(row.nbytes for row in llm.memory.map("now").ranges if row.tag == "kv_cache")
    assert told.need.weights_bytes == pytest.approx(stats.persistent_bytes - kv_bytes, rel=0.01)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells what is mapped")
@pytest.mark.parametrize("device", ["ref", "cpu"])
def test_a_model_that_is_loaded_holds_its_file_no_longer(
    device: str, mixed: Callable[[str], tuple[Path, torch.nn.Module]]
) -> None:
    path, _ = mixed("llama")
    checkpoint = open_checkpoint(path)
    assert str(path) in Path("/proc/self/maps").read_text()
    del checkpoint
    with LLM(str(path), device=device, memory_budget=BUDGET, max_model_len=64, max_num_seqs=2):
        gc.collect()
        assert str(path) not in Path("/proc/self/maps").read_text()


@each_model
def test_llama_cpp_agrees(name: str, mixed: Callable[[str], tuple[Path, torch.nn.Module]]) -> None:
    """It was recorded. It quantizes activations, so that of the file it is as far from us as from its own floats."""
    path, _ = mixed(name)
    ids, quantized, floats = (np.array(RECORDED[name][key]) for key in ("token_ids", "quantized", "floats"))
    with LLM(str(path), device="cpu", dtype="float32", memory_budget=BUDGET) as llm:
        ours = scores(llm, ids.tolist())
    assert np.abs(ours - floats).mean() < 0.005  # its KV cache is float16
    assert np.abs(ours - quantized).mean() < 1.05 * np.abs(floats - quantized).mean() < 0.12


def rows_of(path: Path, manifest: Manifest) -> dict[str, str]:
    """By op, the schemes that the plan shows."""
    checkpoint = open_checkpoint(path)
    precision = Precision.by_manifest(manifest, "float32", "auto", None, "acme")
    demand = demand_of_header(checkpoint.config, checkpoint.header, precision, manifest, "file")
    return {row.op: row.scheme for row in explained_rows(Offer.of_manifest(manifest), demand, Wishes())}


def test_the_plan_names_every_scheme_that_an_op_meets(
    mixed: Callable[[str], tuple[Path, torch.nn.Module]],
) -> None:
    path, _ = mixed("llama")
    found = rows_of(path, MANIFEST)
    assert found["gather_rows"] == "q4_k"
    assert found["lm_head"] == "q6_k"
    assert found["qkv_linear"] == "q4_k+q5_0+q5_1+q5_k+q6_k+q8_0"
    assert found["ffn_layer"] == "none+q4_1+q4_k+q5_1+q5_k+q6_k"
    lacking = rows_of(path, replace(MANIFEST, schemes=("q4_k", "q8_0")))
    assert lacking["qkv_linear"] == "none+q4_k+q8_0"
    assert lacking["lm_head"] == "none"
    path, _ = mixed("qwen2")
    found = rows_of(path, MANIFEST)
    assert (found["gather_rows"], found["lm_head"]) == ("q8_0", "q8_0")
    assert found["ffn_layer"] == "q4_0+q4_k+q5_0+q5_k+q6_k"
