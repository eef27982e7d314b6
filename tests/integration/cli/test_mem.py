"""`rtp mem` and `rtp generate --trace-memory`: a run is recorded, shown, compared and exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rtp_core.device.reference import ReferenceDevice
from rtp_core.errors import LibraryMemoryError
from rtp_core.memory.arena import Arena
from rtp_core.memory.table import HEADER

from .conftest import RunRtp
from .scripted_model import document, on_ref


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first test that asks for a run leaves its file for the others."""
    return tmp_path_factory.mktemp("recorded") / "run.json"


@pytest.fixture
def run(generate: RunRtp, recorded: Path) -> Path:
    """The file of a recorded run, which nobody changes."""
    if not recorded.exists():
        result = generate("a", "--max-tokens", 4, "--trace-memory", recorded)
        assert result.exit_code == 0, result.stderr
        assert f"rtp mem map {recorded}" in result.stderr
    return recorded


def test_a_map_is_the_table_of_the_peak_and_what_it_adds_up_to(rtp: RunRtp, run: Path) -> None:
    result = rtp("mem", "map", run)
    assert result.exit_code == 0, result.stderr
    assert HEADER in result.stdout.splitlines()
    assert "| USED |" in result.stdout and "kv_cache" in result.stdout and "at its peak" in result.stdout
    found = document(rtp("mem", "map", run, "--json"))
    assert found["at"] == "peak" and found["device"] == "ref:0"
    assert found["used_bytes"] + found["free_bytes"] == found["total_bytes"]
    assert sum(row["bytes"] for row in found["rows"]) == found["total_bytes"]
    assert sum(tag["bytes"] for tag in found["tags"]) == found["used_bytes"]
    assert all(row["tag"] for row in found["rows"] if row["avail"] == "USED"), "a tag is never blank"
    at = found["start"]
    for row in found["rows"]:
        assert row["address"] == at
        at += row["bytes"]
    now = document(rtp("mem", "map", run, "--at", "now", "--json"))
    assert now["used_bytes"] < found["used_bytes"]


def test_a_trace_shows_where_its_allocations_come_from(rtp: RunRtp, run: Path) -> None:
    rows = document(rtp("mem", "map", run, "--json"))["rows"]
    trace = next(row["trace"] for row in rows if row["tag"] == "kv_cache")
    found = document(rtp("mem", "trace", trace, run, "--json"))
    assert found["tag"] == "kv_cache" and found["recorded"]["allocations"] == 1
    assert any(frame["function"] == "KVCache.__init__" for frame in found["stack"])
    result = rtp("mem", "trace", trace, run)
    assert f"trace {trace}: kv_cache" in result.stdout and "kv_cache.py:" in result.stdout


def test_stacks_can_be_left_out(rtp: RunRtp, generate: RunRtp, tmp_path: Path) -> None:
    path = tmp_path / "tags.json"
    assert generate("a", "--max-tokens", 2, "--trace-memory", path, "--no-trace-stacks").exit_code == 0
    result = rtp("mem", "trace", 0, path)
    assert result.exit_code == 0 and "no stack was kept" in result.stdout


def test_a_difference_of_two_runs_and_of_a_run_with_itself(
    rtp: RunRtp, generate: RunRtp, run: Path, tmp_path: Path
) -> None:
    longer = tmp_path / "longer.json"
    assert generate("aaaaaaaaaaaaaaaaaa", "--max-tokens", 2, "--trace-memory", longer).exit_code == 0
    assert rtp("mem", "diff", run, run).stdout == "no difference\n"
    found = document(rtp("mem", "diff", run, longer, "--json"))["differences"]
    assert found and {row["change"] for row in found} <= {"new", "gone", "grown", "shrunk"}
    assert "CHANGE" in rtp("mem", "diff", run, longer).stdout


def test_what_is_held_beside_the_arena_is_recorded_and_compared(
    rtp: RunRtp, generate: RunRtp, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.json"
    monkeypatch.setattr(ReferenceDevice, "memory_beside", lambda device: {"libacme": 3 << 20})
    assert generate("a", "--max-tokens", 4, "--trace-memory", other).exit_code == 0
    assert document(rtp("mem", "map", run, "--json"))["beside"] == {}
    found = document(rtp("mem", "diff", run, other, "--json"))["beside"]
    assert found == [{"holder": "libacme", "bytes_before": 0, "bytes_after": 3 << 20}]
    said = "beside the arena at the end: libacme, 0 B before and 3.0 MiB after\n"
    assert rtp("mem", "diff", run, other).stdout.endswith(said)
    assert "beside" not in rtp("mem", "diff", other, other).stdout


def test_pages_and_perfetto_traces_are_written(rtp: RunRtp, run: Path, tmp_path: Path) -> None:
    page, trace = tmp_path / "run.html", tmp_path / "run.perfetto.json"
    assert rtp("mem", "html", run, "-o", page).exit_code == 0
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert rtp("mem", "perfetto", run, "-o", trace).exit_code == 0
    assert json.loads(trace.read_text())["traceEvents"]
    assert rtp("mem", "html", run, "-o", tmp_path / "nowhere" / "x.html").exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["map", "missing.json"], 3, "cannot read a memory snapshot"),
        (["html", "missing.json", "-o", "x.html"], 3, "cannot read a memory snapshot"),
        (["map", "{bad}"], 3, "bad memory snapshot"),
        (["map", "{run}", "--at", "oom"], 2, "memory never ran out"),
        (["map", "{run}", "--at", "noon"], 2, "noon"),
        (["trace", "99999", "{run}"], 2, "no trace 99999"),
        (["trace", "-1", "{run}"], 2, "-1"),
        (["trace", "x", "{run}"], 2, "valid integer"),
        (["map"], 2, "Missing argument"),
    ],
)
def test_bad_input_is_one_error(
    arguments: list[str], code: int, said: str, rtp: RunRtp, run: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text('{"schema": 1, "kind": "rtp-memory"}')
    result = rtp("mem", *(argument.format(run=run, bad=bad) for argument in arguments))
    assert result.exit_code == code, result.stderr
    assert said in result.stderr and result.stdout == "" and "Traceback" not in result.stderr


def test_a_file_that_cannot_be_written_is_told_before_the_model_loads(generate: RunRtp, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere" / "run.json"):
        result = generate("a", "--trace-memory", path)
        assert result.exit_code == 1
        assert f"cannot write {path}" in result.stderr and "load" not in result.stderr


def test_memory_that_runs_out_leaves_a_snapshot_and_says_where(
    rtp: RunRtp, generate: RunRtp, monkeypatch: pytest.MonkeyPatch
) -> None:
    allocate = Arena.allocate

    def failing(arena: Arena, nbytes: int, tag: str) -> Any:
        if tag == "step_inputs" and arena.name == "ref:0" and arena.space.host_addressable:
            raise arena._exhausted(nbytes, tag)
        return allocate(arena, nbytes, tag)

    monkeypatch.setattr(Arena, "allocate", failing)
    monkeypatch.setattr(ReferenceDevice, "memory_beside", lambda device: {"libacme": 3 << 20})
    result = generate("a", "--debug")
    assert result.exit_code == 5, result.stderr
    assert "out of memory: cannot allocate" in result.stderr
    assert result.stderr.count("beside the arena: libacme 3.0 MiB") == 1
    command = next(words for words in map(str.split, result.stderr.splitlines()) if words[0] == "see:")[1:]
    assert command[:3] == ["rtp", "mem", "map"]
    shown = rtp(*command[1:])
    assert shown.exit_code == 0 and "bytes of 'step_inputs'" in shown.stdout
    assert "beside the arena at the end: libacme 3.0 MiB" in shown.stdout
    assert document(rtp(*command[1:], "--json"))["beside"] == {"libacme": 3 << 20}


def test_memory_that_a_library_did_not_get_leaves_a_snapshot_of_that_moment(
    rtp: RunRtp, generate: RunRtp, monkeypatch: pytest.MonkeyPatch
) -> None:
    allocate = Arena.allocate

    def failing(arena: Arena, nbytes: int, tag: str) -> Any:
        if tag == "step_inputs" and arena.name == "ref:0" and arena.space.host_addressable:
            arena._exhausted(nbytes, "an earlier step")
            raise LibraryMemoryError("out of memory beside the arena", arena=arena)
        return allocate(arena, nbytes, tag)

    monkeypatch.setattr(Arena, "allocate", failing)
    result = generate("a")
    assert result.exit_code == 5, result.stderr
    command = next(words for words in map(str.split, result.stderr.splitlines()) if words[0] == "see:")[1:]
    assert command[-2:] == ["--at", "now"]
    shown = rtp(*command[1:])
    assert shown.exit_code == 0 and "kv_cache" in shown.stdout


def test_a_budget_that_is_too_small_is_told_in_numbers(rtp: RunRtp, model: Path) -> None:
    result = rtp("generate", "a", *on_ref(model), "--memory-budget", "1MiB")
    assert result.exit_code == 5, result.stderr
    assert "the model does not fit into 1.0 MiB" in result.stderr and "--memory-budget" in result.stderr


def test_models_show_tells_what_a_device_would_need(rtp: RunRtp, model: Path) -> None:
    show = ("models", "show", model, "--device", "ref", "--json")
    facts = document(rtp(*show, "--max-num-batched-tokens", 64))["memory"]
    assert facts["fits"] and facts["device"] == "ref:0"
    assert facts["weights_bytes"] > 0 and facts["kv_bytes_per_token"] > 0 and facts["work_space_bytes"] > 0
    little = ("--memory-budget", "1MiB", "--max-num-batched-tokens", 1024)
    tight = document(rtp(*show, *little))
    assert not tight["memory"]["fits"] and "does not fit into 1.0 MiB" in tight["memory"]["problem"]
    assert "memory" not in document(rtp("models", "show", model, "--json"))
    assert "work_space_bytes" in rtp("models", "show", model, "--device", "ref").stdout
