"""What only a GPU can tell: `tox -e cuda`, `tox -e rocm`. Without one, a skip that says why."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import make_model, save
from decode_traffic import NEEDED, per_step, traffic

from rtp_core import LLM, SamplingParams
from rtp_core.conformance.isolated import run_isolated
from rtp_core.device.loader import State, load_plugins
from rtp_torch.gpu import Gpu

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


def test_a_replayed_decode_step_meets_the_host_as_often_as_it_must(kind: str, tmp_path: Path) -> None:
    save(make_model("llama_tied"), tmp_path)
    with LLM(str(tmp_path), device=kind, dtype="float32") as llm:
        assert llm.why_eager == ""
        assert per_step(llm, traffic) == NEEDED
        assert per_step(llm, waits_in_torch) == (1.0,), "more than the copy of the token ids"


def test_what_torch_has_beside_the_arena_is_told_whole(kind: str, tmp_path: Path) -> None:
    save(make_model("llama_tied"), tmp_path)
    with LLM(str(tmp_path), device=kind, dtype="float32") as llm:
        arena = llm.device._memory._typed[torch.uint8]
        assert sum(llm.memory.beside.values()) == torch.cuda.memory_reserved(arena.device) - arena.nbytes
        pool = llm.device._accelerator._graph_pool
        graphs = (s["total_size"] for s in torch.cuda.memory_snapshot() if s["segment_pool_id"] == pool)
        assert llm.memory.beside["torch's pool for recorded steps"] == sum(graphs)
        assert llm.device._accelerator.peak_beside() >= sum(llm.memory.beside.values())


@pytest.mark.parametrize(("codes", "since"), [(torch.int8, (7, 5)), (torch.float8_e4m3fn, (8, 9))], ids=str)
def test_units_for_codes_of_8_bits_are_found(kind: str, codes: torch.dtype, since: tuple[int, int]) -> None:
    capability = torch.cuda.get_device_capability(0)
    if kind == "rocm" or capability < since:
        pytest.skip(f"nobody promises {codes} on {torch.cuda.get_device_name(0)}")
    assert Gpu(0).multiplies(codes)


def waits_in_torch(llm: LLM, num_tokens: int) -> tuple[int]:
    """How often an op of torch made the host wait, which no count of the device's own would show."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            traffic(llm, num_tokens)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return (sum("synchronizing" in str(warning.message) for warning in told),)
