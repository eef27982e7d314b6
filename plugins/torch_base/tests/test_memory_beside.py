"""What torch holds beside the arena is told by name, in reports, snapshots and errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import make_model, save
from host_accelerator import HostAccelerator
from lazy_device import LazyDevice, LazyGraphsDevice, open_device

from rtp_core import LLM, SamplingParams
from rtp_core.memory.snapshot import Snapshot
from rtp_core.plugin import LibraryMemoryError, OutOfMemoryError, dtypes
from rtp_torch.gpu import Gpu

MIB = 1 << 20
BUDGET = 64 * MIB


# -- over torch's CPU ------------------------------------------------------------------------------------------------


def test_what_an_op_makes_beside_the_arena_is_counted_and_what_it_writes_into_it_is_not(device: LazyDevice) -> None:
    x = device.upload(np.zeros((4, 1 << 12), np.float32), "x")
    before = device.memory_beside()["results"]
    device.add(x, x)
    assert device.memory_beside()["results"] == before
    doubled = device._see(x) * 2  # as an op that torch gives no `out`
    after = device.memory_beside()["results"]
    assert after - before >= x.nbytes
    device.synchronize()
    del doubled
    assert device.memory_beside()["results"] == after, "what is free is kept"
    device._accelerator.release()
    assert device.memory_beside()["results"] == before
    assert device._accelerator.peak_beside() >= after


def test_what_a_recorded_step_makes_is_its_own_for_as_long_as_it_can_be_replayed() -> None:
    device = open_device(LazyGraphsDevice, BUDGET)
    x = device.upload(np.zeros((4, 1 << 12), np.float32), "x")
    assert device.memory_beside()["graphs"] == 0
    replay = device.capture(lambda: (device._see(x) * 2, None)[1])
    assert replay is not None and device.memory_beside()["graphs"] >= x.nbytes
    del replay
    assert device.memory_beside()["graphs"] == 0
    device.close()


def test_an_accelerator_tells_what_it_has_given_beside_the_arena() -> None:
    accelerator = HostAccelerator()
    accelerator.reserve(1000)
    accelerator.pinned(24)
    assert accelerator.memory_beside() == {"pinned": 24}


# -- where users see it ----------------------------------------------------------------------------------------------


@pytest.fixture
def llm(tmp_path: Path, plugin: None) -> Any:
    save(make_model("llama_tied"), tmp_path)
    with LLM(str(tmp_path), device="lazy_graphs", dtype="float32", memory_budget=BUDGET) as llm:
        llm.generate([[5, 3, 8]], SamplingParams(temperature=0, max_tokens=6, ignore_eos=True))
        yield llm


def test_reports_and_snapshots_have_it(llm: LLM, tmp_path: Path) -> None:
    beside = dict(llm.memory.beside)
    assert beside["results"] > 0 and beside["graphs"] > 0
    llm.memory.save(tmp_path / "run.json")
    assert Snapshot.read(tmp_path / "run.json").beside == beside
    assert "beside the arena at the end: results " in llm.memory.text()


def test_errors_have_it(llm: LLM) -> None:
    failure = llm.device.failure(torch.OutOfMemoryError("CUDA out of memory."))
    assert isinstance(failure, LibraryMemoryError)
    assert failure.beside == llm.memory.beside
    assert "taken beside it: results has " in failure.why and "together at most " in failure.why
    hoarded = llm.device.alloc((llm.memory.stats.largest_hole_bytes - 4096,), dtypes.uint8, "hoarded")
    with pytest.raises(OutOfMemoryError) as caught:
        llm.generate([[5, 3, 8]], SamplingParams(temperature=0, max_tokens=6))
    del hoarded
    assert caught.value.beside["graphs"] == llm.memory.beside["graphs"]
    assert caught.value.table.splitlines()[-1].startswith("beside the arena: results ")
    assert caught.value.table.count("beside the arena") == 1


def test_an_error_of_a_library_names_nobody_where_nobody_tells(
    device: LazyDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device._accelerator, "memory_beside", dict)
    failure = device.failure(torch.OutOfMemoryError("CUDA out of memory."))
    assert isinstance(failure, LibraryMemoryError)
    assert " are taken beside it; " in failure.why and "together" not in failure.why


# -- what is asked of torch.cuda -------------------------------------------------------------------------------------


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    """One whose torch has reserved 100 MiB, 64 for the arena and 6 for graphs, and 120 at the peak since then."""
    peaks = [900 * MIB]  # with an arena that was before
    segments = [(94, (0, 0)), (4, (0, 7)), (2, (0, 7))]
    told: dict[str, Any] = {
        "memory_reserved": lambda device: 100 * MIB,
        "max_memory_reserved": lambda device: peaks[-1],
        "reset_peak_memory_stats": lambda device: peaks.append(120 * MIB),
        "get_allocator_backend": lambda: "native",
        "memory_snapshot": lambda: [{"total_size": size * MIB, "segment_pool_id": pool} for size, pool in segments],
    }
    for name, function in told.items():
        monkeypatch.setattr(torch.cuda, name, function)
    monkeypatch.setattr(torch, "empty", lambda nbytes, dtype, device: np.empty(nbytes, np.uint8))
    gpu = object.__new__(Gpu)
    gpu._device, gpu._graph_pool = torch.device("cuda", 0), (0, 7)
    gpu.reserve(64 * MIB)
    return gpu


def test_a_gpu_tells_graphs_from_the_rest(gpu: Gpu) -> None:
    assert gpu.memory_beside() == {"torch": 30 * MIB, "torch's pool for recorded steps": 6 * MIB}
    assert gpu.peak_beside() == 56 * MIB


def test_without_graphs_or_without_segments_nothing_is_said_to_be_theirs(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = {"torch": 36 * MIB, "torch's pool for recorded steps": 0}
    monkeypatch.setattr(torch.cuda, "get_allocator_backend", lambda: "cudaMallocAsync")
    assert gpu.memory_beside() == without
    monkeypatch.setattr(torch.cuda, "get_allocator_backend", lambda: "native")
    gpu._graph_pool = None
    assert gpu.memory_beside() == without
