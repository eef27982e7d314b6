"""What a start predicts is what then happens; what runs out is told, survived, and given back."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import VOCAB, make_model, save

from rtp_core import LLM, SamplingParams
from rtp_core.checkpoint.opening import open_checkpoint
from rtp_core.device.manifest import DeviceConfig
from rtp_core.device.opening import create, find
from rtp_core.device.reference import ReferenceDevice
from rtp_core.engine import fitting, loading
from rtp_core.engine.engine_config import EngineConfig
from rtp_core.engine.forecast import forecast
from rtp_core.errors import ConfigError, LibraryMemoryError, OutOfMemoryError
from rtp_core.memory.arena import Arena
from rtp_core.memory.budget import format_bytes
from rtp_core.memory.report.memory_map import MemoryMap
from rtp_core.memory.snapshot import Snapshot
from rtp_core.memory.storage import Storage
from rtp_core.text.tokenizer import Tokenizer
from rtp_test_devices.handle import HandleDevice

DEVICES = ["ref", "cpu", "handle"]  # the last one cannot rehearse: its warm-up runs
LIMITS: dict[str, Any] = {"max_model_len": 160, "max_num_seqs": 6, "max_num_batched_tokens": 96}
BUDGET = 64 << 20  # bytes
WORKLOADS = 200
FAILURES = 200
GREEDY = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llama")
    save(make_model("llama_tied"), path)
    return path


def open_llm(folder: Path, device: str, **options: Any) -> LLM:
    return LLM(str(folder), device=device, **{"dtype": "float32", "memory_budget": BUDGET, **LIMITS, **options})


# -- the prediction ------------------------------------------------------------------------------------------------


def workloads(seed: int) -> Iterator[tuple[list[list[int]], list[SamplingParams]]]:
    """Prompts of any length, one or many, greedy or not, with and without scores."""
    rng = np.random.default_rng(seed)
    longest = LIMITS["max_model_len"] - 1
    for _ in range(WORKLOADS):
        count = int(rng.choice([1, 2, 3, 6, 9]))
        top = int(rng.choice([4, 40, longest]))
        prompts = [rng.integers(0, VOCAB, int(rng.integers(1, top + 1))).tolist() for _ in range(count)]
        params = [
            SamplingParams(
                temperature=float(rng.choice([0.0, 1.0])),
                top_p=0.9,
                seed=1,
                max_tokens=int(rng.integers(1, 4)),
                ignore_eos=True,
                logprobs=int(rng.integers(0, 4)) if rng.random() < 0.3 else None,
                prompt_logprobs=0 if rng.random() < 0.2 else None,
            )
            for _ in range(count)
        ]
        yield prompts, params


@pytest.mark.parametrize("device", DEVICES)
def test_no_workload_within_the_limits_passes_the_predicted_peak_and_the_worst_comes_close(
    device: str, folder: Path
) -> None:
    with open_llm(folder, device) as llm:
        arena, predicted = llm.device.arena, llm.memory.need.work_space_bytes
        assert predicted is not None
        arena.reset_peak()
        base = arena.stats().peak_reach_bytes
        for prompts, params in workloads(len(device)):
            llm.generate(prompts, params)
        observed = arena.stats().peak_reach_bytes - base
        assert arena.stats().public_bytes == 0, arena.table()
    assert observed <= predicted <= 1.1 * observed


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", ["llama_biases", "qwen2_untied"])
def test_a_forecast_is_what_then_happens(device: str, shape: str, tmp_path: Path) -> None:
    save(make_model(shape), tmp_path)
    options = {"device": device, "dtype": "float32", "memory_budget": BUDGET, **LIMITS}
    told = forecast(open_checkpoint(tmp_path), options)
    with LLM(str(tmp_path), **options) as llm:
        need, stats = llm.memory.need, llm.memory.stats
        kv_bytes = sum(row.nbytes for row in llm.memory.map("now").ranges if row.tag == "kv_cache")
        assert told.need.weights_bytes == pytest.approx(stats.persistent_bytes - kv_bytes, rel=0.05)
        assert told.need.kv_token_bytes * llm.memory.kv_tokens == pytest.approx(kv_bytes, rel=0.05)
        if device == "handle":
            assert told.need.work_space_bytes is None, "only running tells"
        else:
            assert told.need.work_space_bytes == need.work_space_bytes
            assert told.kv_tokens == llm.memory.kv_tokens


def test_the_default_model_takes_what_its_forecast_says(default_model_path: Path) -> None:
    limits = {"max_model_len": 1024, "max_num_seqs": 8, "max_num_batched_tokens": 512}
    told = forecast(open_checkpoint(default_model_path), {"device": "cpu", **limits})
    with LLM(str(default_model_path), device="cpu", **limits) as llm:
        arena = llm.device.arena
        arena.reset_peak()
        base = arena.stats()
        llm.generate([[7] * 1023], SamplingParams(temperature=0, max_tokens=2, prompt_logprobs=0))
        observed = arena.stats().peak_reach_bytes - base.peak_reach_bytes
        kv_bytes = told.need.kv_bytes(llm.memory.kv_tokens)
        assert told.need.weights_bytes == pytest.approx(base.persistent_bytes - kv_bytes, rel=0.05)
        assert told.need.kv_token_bytes == 30 * 2 * 3 * 64 * 2
        assert observed <= (told.need.work_space_bytes or 0) <= 1.1 * observed
        assert base.total_bytes == pytest.approx(told.need.fixed_bytes + kv_bytes, rel=0.01), "no more than is needed"
    assert llm.memory.kv_tokens == 8 * 1024


# -- starts that cannot be -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
def test_a_budget_below_the_need_is_told_in_numbers_with_a_budget_that_fits(device: str, folder: Path) -> None:
    limits = {**LIMITS, "max_num_batched_tokens": 1024, "max_model_len": 256}
    with pytest.raises(OutOfMemoryError) as caught:
        open_llm(folder, device, memory_budget="1MiB", **limits)
    error = caught.value
    need = forecast(open_checkpoint(folder), {"device": device, "dtype": "float32", **limits}).need
    assert error.what == "the model does not fit into 1.0 MiB"
    assert f"weights {format_bytes(need.weights_bytes)}, " in error.why
    if device == "handle":
        assert "work space more than the" in error.why and "out of memory: cannot allocate" in error.why
        return
    assert f"KV cache for 255 tokens {format_bytes(need.kv_bytes(255))}, work space" in error.why
    assert "are free" in error.why
    option, size = error.hint.split()
    assert option == "--memory-budget"
    with open_llm(folder, device, memory_budget=size, **limits) as llm:
        assert llm.generate([[1, 2, 3]], GREEDY)[0].finish_reason == "length"


def test_a_library_that_finds_no_memory_in_warm_up_is_not_told_to_raise_the_budget(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_memory(*args: Any, **options: Any) -> None:
        raise LibraryMemoryError("out of memory beside the arena", hint="lower it")

    monkeypatch.setattr(HandleDevice, "rms_norm", without_memory)
    with pytest.raises(LibraryMemoryError, match=r"^out of memory beside the arena \(lower it\)$"):
        open_llm(folder, "handle")


def test_where_no_larger_budget_is_to_be_had_smaller_limits_are_named_that_fit(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ReferenceDevice, "memory_info", lambda self: (1 << 40, 1 << 20))
    budget, generous = 2 << 20, {"max_num_batched_tokens": 1024, "max_num_seqs": 64}
    with pytest.raises(OutOfMemoryError) as caught:
        open_llm(folder, "ref", memory_budget=budget, **generous)
    words = caught.value.hint.split()
    pairs = zip(words[::2], words[1::2], strict=True)
    named = {option.removeprefix("--").replace("-", "_"): int(number) for option, number in pairs}
    assert named.keys() >= {"max_num_batched_tokens", "max_num_seqs"}
    with open_llm(folder, "ref", memory_budget=budget, **{**generous, **named}) as llm:
        assert llm.generate([[1, 2, 3]], GREEDY)[0].finish_reason == "length"


def test_where_nothing_would_fit_the_error_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ReferenceDevice, "memory_info", lambda self: (1 << 40, 1 << 20))
    monkeypatch.setattr(fitting, "_total", lambda setting, need: 1 << 39)
    with pytest.raises(OutOfMemoryError, match="a smaller model, or a device with more memory"):
        open_llm(folder, "ref")


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        (0, "memory_budget is 0"),
        (-1, "memory_budget is -1"),
        ("-2GiB", "memory_budget is '-2GiB'"),
        (1 << 62, "memory budget is 4611686018427387904 bytes"),
        ("all-100TiB", "memory_budget leaves -"),
    ],
)
def test_budgets_that_no_machine_has_are_one_error(budget: int | str, said: str, folder: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        open_llm(folder, "ref", memory_budget=budget)


def test_shares_and_reserves_are_of_what_is_free(folder: Path) -> None:
    for budget in (0.25, "25%", "all-6GiB"):  # of the 8 GiB that this device says it has
        with open_llm(folder, "handle", memory_budget=budget) as llm:
            assert llm.memory.stats.total_bytes == 2 << 30


# -- running out ---------------------------------------------------------------------------------------------------


class Failure:
    """Lets the k-th allocation of any arena fail, from `begin` on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = 0
        allocate = Arena.allocate

        def failing(arena: Arena, nbytes: int, tag: str) -> Any:
            self.left -= 1
            if self.left == 0:
                raise arena._exhausted(nbytes, tag)
            return allocate(arena, nbytes, tag)

        monkeypatch.setattr(Arena, "allocate", failing)


@pytest.fixture
def failure(monkeypatch: pytest.MonkeyPatch) -> Failure:
    return Failure(monkeypatch)


@pytest.mark.parametrize("device", DEVICES)
def test_loading_and_warm_up_survive_a_failure_of_any_allocation(
    device: str, folder: Path, failure: Failure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left of a start that failed: neither in the device's arena nor in that of its rehearsal."""
    arenas: list[Arena] = []
    init = Arena.__init__
    monkeypatch.setattr(Arena, "__init__", lambda self, *a, **o: (arenas.append(self), init(self, *a, **o))[1])
    checkpoint = open_checkpoint(folder)
    assert checkpoint.tokenizer is not None
    tokenizer = Tokenizer.from_source(checkpoint.tokenizer)
    plugin, info = find(device)
    config = EngineConfig(device=device, dtype="float32", memory_budget=BUDGET, **LIMITS)
    num_failed = 0
    for k in range(1, FAILURES + 1):
        arenas.clear()
        opened = create(plugin, info, DeviceConfig(memory_budget=BUDGET))
        failure.left = k
        try:
            loaded = loading._load(checkpoint, tokenizer, opened, config, None, lambda done, total: None)
        except OutOfMemoryError as error:
            assert "| USED |" in error.table or "| FREE |" in error.table
            num_failed += 1
        else:
            assert failure.left > 0
            del loaded
        opened.close()
        # An arena over memory of another one keeps that: only this list still knows those of recorded steps.
        arenas[:] = [arena for arena in arenas if not isinstance(arena._region.owner, Storage)]
        if any(arena.stats().used_bytes for arena in arenas):
            gc.collect()
        for arena in arenas:
            arena.check_integrity()
            assert arena.stats().used_bytes == 0, arena.table()
    assert num_failed > 50


@pytest.mark.parametrize("device", DEVICES)
def test_a_request_survives_a_failure_of_any_allocation_of_its_prefill_and_decode(
    device: str, folder: Path, failure: Failure
) -> None:
    """It fails clearly, memory is as before, and the next request gets the right tokens."""
    prompts = [[1, 2, 3, 4, 5], [9] * 40]
    with open_llm(folder, device, enforce_eager=True) as llm:  # replayed decode steps allocate nothing
        expected = [output.token_ids for output in llm.generate(prompts, GREEDY)]
        num_failed, base = 0, llm.memory.stats.used_bytes
        for k in range(1, FAILURES + 1):
            failure.left = k
            try:
                got = [output.token_ids for output in llm.generate(prompts, GREEDY)]
            except OutOfMemoryError as error:
                assert error.what.startswith("out of memory: cannot allocate")
                assert f"the arena of {device}:0" in error.where
                num_failed += 1
                assert llm.memory.map("oom").asked is not None
            else:
                assert got == expected
            assert not llm._loaded.engine.has_unfinished
            if llm.memory.stats.public_bytes:
                gc.collect()
            assert llm.memory.stats.public_bytes == 0
            assert llm.memory.stats.used_bytes == base
        failure.left = 0
        llm.device.arena.check_integrity()
        assert [output.token_ids for output in llm.generate(prompts, GREEDY)] == expected
    assert num_failed > 60


# -- the view ------------------------------------------------------------------------------------------------------


def test_a_running_engine_shows_what_its_memory_holds(folder: Path, tmp_path: Path) -> None:
    with open_llm(folder, "cpu", trace_memory="stacks") as llm:
        llm.generate([[1] * 90, [2] * 30], GREEDY)
        peak, now = llm.memory.map(), llm.memory.map("now")
        llm.memory.save(tmp_path / "run.json")
        assert peak.used_bytes == llm.memory.stats.peak_bytes > now.used_bytes
        assert "kv_cache" in {total.tag for total in now.totals}
        assert peak.step is not None and peak.step.phase == "prefill"
        assert set(peak.step.blocks) <= {"request-0", "request-1"}
        assert llm.memory.table() == now.table
        assert "at its peak" in llm.memory.text()
    saved = Snapshot.read(tmp_path / "run.json")
    assert replace(MemoryMap.of(saved), table="") == replace(peak, table="")
    assert {step.phase for step in saved.steps} >= {"open", "load", "prefill", "decode"}
    functions = {frame.function for trace in range(len(saved.traces)) for frame in saved.frames_of(trace)}
    assert "Layers.decoder_layer" in functions and "_load_weights" in functions
    assert all(trace.tag for trace in saved.traces), "a tag is never blank"


def test_the_numbers_of_a_snapshot_add_up(folder: Path, tmp_path: Path) -> None:
    """Replaying the events gives what is held at the end, and the same peak."""
    with open_llm(folder, "cpu", trace_memory="tags") as llm:
        llm.generate([[1] * 90, [2] * 30], GREEDY)
        llm.memory.save(tmp_path / "run.json")
        peak_bytes = llm.memory.stats.peak_bytes
    data = json.loads((tmp_path / "run.json").read_text())
    held: dict[int, int] = {}
    used = peak = 0
    for _, address, nbytes, _ in data["events"]:
        if nbytes:
            assert address not in held
            held[address] = nbytes
            used += nbytes
            peak = max(peak, used)
        else:
            used -= held.pop(address)
    assert held == {row[0]: row[1] for row in data["moments"]["now"]["held"]}
    assert peak == peak_bytes


def test_between_requests_only_weights_kv_and_kernels_hold_memory(folder: Path) -> None:
    make: Callable[..., SamplingParams] = SamplingParams
    with open_llm(folder, "cpu") as llm:
        for params in (make(temperature=0), make(temperature=1, seed=1, logprobs=3), make(prompt_logprobs=2, seed=1)):
            llm.generate([[1, 2, 3]] * 3, params)
            assert llm.memory.stats.public_bytes == 0, llm.memory.table()
        stream = llm.stream([5, 6, 7], make(temperature=0, max_tokens=50, ignore_eos=True))
        next(stream)
        stream.close()
        assert llm.memory.stats.public_bytes == 0, llm.memory.table()
