"""The memory of recorded decode steps: part of what a start says it needs, one private block, and nothing beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from checkpoints import make_model, save

from rtp_core import LLM, SamplingParams
from rtp_core.checkpoint.opening import open_checkpoint
from rtp_core.engine.forecast import forecast
from rtp_core.errors import OutOfMemoryError
from rtp_core.memory.arena import Arena
from rtp_core.memory.budget import format_bytes
from rtp_core.runner.decode_replay import TAG
from rtp_cpu.device import CpuDevice

OPTIONS: dict[str, Any] = {
    "device": "cpu",
    "dtype": "float32",
    "max_model_len": 160,
    "max_num_seqs": 6,
    "max_num_batched_tokens": 96,
}
KV_BLOCKS = 16
GREEDY = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llama")
    save(make_model("llama_tied"), path)
    return path


def open_llm(folder: Path, **options: Any) -> LLM:
    return LLM(str(folder), **{**OPTIONS, "memory_budget": 64 << 20, **options})


def test_a_forecast_tells_it_a_start_takes_it_and_steps_of_all_sizes_share_it(folder: Path) -> None:
    told = forecast(open_checkpoint(folder), {**OPTIONS, "memory_budget": 64 << 20})
    with open_llm(folder) as llm:
        assert 0 < told.need.replay_bytes == llm.memory.need.replay_bytes
        assert told.need.run_bytes == told.need.replay_bytes + (told.need.work_space_bytes or 0)
        for size in range(1, 7):
            llm.generate([[size] * size] * size, GREEDY)
        totals = llm.device.arena.totals()
        assert totals[TAG] == told.need.replay_bytes
        assert llm.memory.stats.private_bytes == totals[TAG] + totals.get("kernel_scratch", 0)
        llm.device.arena.check_integrity()


def test_rows_that_nobody_asked_for_have_a_block_that_no_request_gets(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = forecast(open_checkpoint(folder), OPTIONS).need
    monkeypatch.setattr(CpuDevice, "capture_size", lambda device, num_requests: -(-num_requests // 4) * 4)
    need = forecast(open_checkpoint(folder), OPTIONS).need
    assert (exact.filler_bytes, need.filler_bytes) == (0, need.kv_block_bytes)
    assert need.replay_bytes == exact.replay_bytes + need.kv_block_bytes
    with open_llm(folder, memory_budget=need.fixed_bytes + KV_BLOCKS * need.kv_block_bytes) as llm:
        assert llm.memory.need.replay_bytes == need.replay_bytes
        totals, blocks = llm.device.arena.totals(), llm.memory.kv_tokens // need.block_size
        assert blocks in (KV_BLOCKS - 1, KV_BLOCKS)
        assert totals["kv_cache"] == (blocks + 1) * need.kv_block_bytes
        assert totals[TAG] == exact.replay_bytes
        grid = llm.device.arena.tracer.kv
        assert grid is not None
        assert (grid.num_blocks, grid.block_nbytes) == (blocks, need.kv_block_bytes)
        assert len(llm.generate([[1, 2, 3]] * 6, GREEDY)) == 6
        llm.device.arena.check_integrity()


def test_the_kv_cache_is_smaller_by_it(folder: Path) -> None:
    need = forecast(open_checkpoint(folder), OPTIONS).need
    budget = need.fixed_bytes + KV_BLOCKS * need.kv_block_bytes
    blocks = []
    for enforce_eager in (False, True):
        with open_llm(folder, memory_budget=budget, enforce_eager=enforce_eager) as llm:
            assert llm.memory.need.replay_bytes == (0 if enforce_eager else need.replay_bytes)
            blocks.append(llm.memory.kv_tokens // need.block_size)
            assert len(llm.generate([[1, 2, 3]] * 6, GREEDY)) == 6
    replayed, eager = blocks
    assert replayed in (KV_BLOCKS - 1, KV_BLOCKS)  # the weights lie with a hole or two between them
    assert abs(eager - replayed - need.replay_bytes / need.kv_block_bytes) < 1


def test_running_out_names_it(folder: Path) -> None:
    need = forecast(open_checkpoint(folder), {**OPTIONS, "max_num_batched_tokens": 1024}).need
    with pytest.raises(OutOfMemoryError) as caught:
        open_llm(folder, memory_budget="1MiB", max_num_batched_tokens=1024)
    assert f"recorded decode steps {format_bytes(need.replay_bytes)}: " in caught.value.why
    with pytest.raises(OutOfMemoryError, match="recorded decode steps 0 B: "):
        open_llm(folder, memory_budget="1MiB", max_num_batched_tokens=1024, enforce_eager=True)


def test_a_replayed_step_allocates_nothing_and_holds_nothing_after_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_llm(folder) as llm:
        prompts = [[i] * 5 for i in range(6)]
        llm.generate(prompts, GREEDY)  # all sizes but 6 are still to be recorded
        allocations: list[str] = []
        allocate = Arena.allocate

        def noting(arena: Arena, nbytes: int, tag: str) -> Any:
            allocations.append(tag)
            return allocate(arena, nbytes, tag)

        monkeypatch.setattr(Arena, "allocate", noting)
        base, pieces = llm.memory.stats.used_bytes, llm.stream_batch(prompts, GREEDY)
        for _ in range(6):
            next(pieces)  # the prefill
        allocations.clear()
        for _ in range(6 * 10):
            next(pieces)
            assert (llm.memory.stats.public_bytes, llm.memory.stats.used_bytes) == (0, base)
        assert allocations == []
        pieces.close()  # type: ignore[attr-defined]


def test_what_a_start_reserved_for_steps_that_cannot_be_recorded_goes_back(folder: Path) -> None:
    with open_llm(folder, disable_impl=("cpu.decoder_self_attention",)) as llm:
        assert llm.why_eager
        assert TAG not in llm.device.arena.totals()
