"""A snapshot comes back from its file as it was; a file that lies is one error that says where."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rtp_core.errors import CacheError, OutOfMemoryError, SnapshotError
from rtp_core.memory import snapshot as snapshots
from rtp_core.memory.arena import Arena
from rtp_core.memory.snapshot import Snapshot
from rtp_core.memory.space import MemorySpace, Region
from rtp_core.memory.tracer import KVGrid

UNIT = 64
BASE = 0x7F0000000000


@pytest.fixture
def saved() -> Snapshot:
    """Weights, a KV cache of ten blocks, three steps of two requests, and a request for too much."""
    arena = Arena(Region(MemorySpace("acme:0", host_addressable=False), BASE, 1000 * UNIT), name="acme:0")
    arena.trace("stacks")
    with arena.lifetime("persistent"):
        weights, cache = arena.allocate(100 * UNIT, "weights"), arena.allocate(10 * UNIT, "kv_cache")
    arena.tracer.kv = KVGrid(cache.address, 10, UNIT, 32)
    tables: dict[str, list[int]] = {"request-0": [0, 1], "request-1": [2]}
    for step in range(3):
        arena.begin_step("decode" if step else "prefill", {name: tuple(table) for name, table in tables.items()})
        hidden = arena.allocate(50 * UNIT, "hidden")
        del hidden
        tables["request-0"].append(3 + step)
    with pytest.raises(OutOfMemoryError):
        arena.allocate(2000 * UNIT, "too much")
    found = Snapshot.of(arena, model="acme-7b", beside={"libacme": 77})
    del weights, cache
    return found


def test_a_file_gives_back_what_was_saved(saved: Snapshot, tmp_path: Path) -> None:
    saved.save(tmp_path / "run.json")
    assert Snapshot.read(tmp_path / "run.json") == saved
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
    assert [trace.tag for trace in saved.traces] == ["weights", "kv_cache", "hidden"]
    assert saved.frames_of(2)[0].file == __file__
    assert saved.moments["oom"].asked == (2000 * UNIT, "too much")


def test_block_tables_are_written_as_what_is_new(saved: Snapshot) -> None:
    by_step = [step.blocks.get("request-0") for step in saved.steps]
    assert by_step == [None, (0, (0, 1)), (2, (3,)), (3, (4,))]
    assert [step.blocks.get("request-1") for step in saved.steps][1:] == [(0, (2,)), (1, ()), (1, ())]


def test_names_that_are_no_text_and_names_without_end_are_saved_too(tmp_path: Path) -> None:
    arena = Arena(Region(MemorySpace("acme:0", host_addressable=False), BASE, 1000 * UNIT), name="acme:0")
    held = arena.allocate(UNIT, "t" * 20_000)
    Snapshot.of(arena, model="model-\udcff.gguf").save(tmp_path / "run.json")
    found = Snapshot.read(tmp_path / "run.json")
    assert found.model == "model-\\udcff.gguf"
    assert found.traces[0].tag == "t" * 10_000
    del held


def test_a_folder_that_is_not_there_is_an_error_and_leaves_nothing(saved: Snapshot, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="cannot write a memory snapshot"):
        saved.save(tmp_path / "nowhere" / "run.json")
    assert list(tmp_path.iterdir()) == []


LIES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "another schema": (lambda d: d.update(schema=2), "schema"),
    "another kind": (lambda d: d.update(kind="perfetto"), "kind"),
    "no region": (lambda d: d.pop("start"), "start"),
    "an empty region": (lambda d: d.update(end=d["start"]), "is empty"),
    "a negative size": (lambda d: d["moments"]["now"]["held"][0].__setitem__(1, -64), "moments.now.held.0.1"),
    "a size that is text": (lambda d: d["moments"]["now"]["held"][0].__setitem__(1, "64"), "moments.now.held.0.1"),
    "a size past 64 bits": (lambda d: d["moments"]["now"]["held"][0].__setitem__(1, 1 << 64), "moments.now.held.0.1"),
    "an overlap": (lambda d: d["moments"]["peak"]["held"][0].__setitem__(1, 101 * UNIT), "overlaps another"),
    "out of the region": (lambda d: d["moments"]["now"]["held"][-1].__setitem__(1, 2000 * UNIT), "leaves the region"),
    "an unknown trace": (lambda d: d["moments"]["now"]["held"][0].__setitem__(2, 99), "there is no trace 99"),
    "an unknown frame": (lambda d: d["traces"][0]["frames"].append(10_000), "there is no frame 10000"),
    "an unknown lifetime": (lambda d: d["moments"]["now"]["held"][0].__setitem__(4, "eternal"), "moments.now.held.0.4"),
    "an event elsewhere": (lambda d: d["events"].append([1, 64, 64, 0]), "an event at 0x40 leaves the region"),
    "a trace of an event": (lambda d: d["events"].append([1, d["start"], 64, 77]), "there is no trace 77"),
    "a KV block": (lambda d: d["steps"][-1]["blocks"].update(x=[0, [10]]), "there is no KV block 10"),
    "a blank tag": (lambda d: d["traces"][0].update(tag=""), "traces.0.tag"),
    "a negative size beside": (lambda d: d["beside"].update(libacme=-1), "beside.libacme"),
    "a huge KV grid": (lambda d: d["kv"].update(num_blocks=1 << 40), "kv.num_blocks"),
}


@pytest.mark.parametrize(("change", "why"), LIES.values(), ids=LIES)
def test_a_file_that_lies_is_one_error_naming_file_and_field(
    saved: Snapshot, tmp_path: Path, change: Callable[[dict[str, Any]], object], why: str
) -> None:
    data = json.loads(saved.model_dump_json(by_alias=True))
    change(data)
    path = tmp_path / "run.json"
    path.write_text(json.dumps(data))
    with pytest.raises(SnapshotError) as caught:
        Snapshot.read(path)
    assert str(path) == caught.value.where
    assert why in caught.value.why
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "content", [b"", b"{", b"null", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"schema": 1}', b"\x80\x04K\x01."]
)
def test_what_is_no_snapshot_is_one_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with pytest.raises(SnapshotError, match="bad memory snapshot"):
        Snapshot.read(path)


def test_cut_and_flipped_files_are_errors_or_snapshots_and_never_anything_else(saved: Snapshot, tmp_path: Path) -> None:
    data, path = saved.model_dump_json(by_alias=True).encode(), tmp_path / "run.json"
    chance = random.Random(5)
    refused = 0
    for round_ in range(200):
        spoilt = bytearray(data)
        if round_ % 2:
            del spoilt[chance.randrange(len(spoilt)) :]
        else:
            for _ in range(3):
                spoilt[chance.randrange(len(spoilt))] = chance.randrange(256)
        path.write_bytes(spoilt)
        try:
            Snapshot.read(path)
        except SnapshotError:
            refused += 1
    assert refused > 120


def test_a_file_that_is_too_large_is_not_read_to_its_end(
    saved: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "MAX_FILE_BYTES", 1000)
    saved.save(tmp_path / "run.json")
    with pytest.raises(SnapshotError, match="larger than 1000 bytes"):
        Snapshot.read(tmp_path / "run.json")


@pytest.mark.parametrize("name", ["missing.json", "."])
def test_a_file_that_is_not_there_is_one_error_with_the_next_command(name: str, tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match=r"cannot read a memory snapshot.*\(rtp generate --trace-memory FILE"):
        Snapshot.read(tmp_path / name)
