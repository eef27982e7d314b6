"""The published surface is what its version promises, and within a major it only grows."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from rtp_core.plugin import OPS, PLUGIN_API

from . import plugin_surface
from .plugin_surface import FOLDER, snapshot, surface

SNAPSHOTS = sorted((tuple(map(int, re.findall(r"\d+", path.name))), path) for path in FOLDER.glob("plugin_api_*.json"))


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Every scalar or list under its path, so that two surfaces compare line by line."""
    if not isinstance(value, dict):
        return {path: value}
    return {k: v for name, inner in value.items() for k, v in leaves(inner, f"{path}/{name}").items()}


def test_the_surface_is_what_this_api_version_promises() -> None:
    assert snapshot().exists(), "run python tests/architecture/plugin_surface.py for the new PLUGIN_API"
    promised, found = leaves(read(snapshot())), leaves(json.loads(json.dumps(surface())))
    changed = {path: (promised.get(path), found.get(path)) for path in promised.keys() | found.keys()}
    changed = {path: values for path, values in changed.items() if values[0] != values[1]}
    assert not changed, "raise PLUGIN_API, then run python tests/architecture/plugin_surface.py"


def test_no_snapshot_is_newer_than_this_core() -> None:
    assert SNAPSHOTS[-1][0] == PLUGIN_API
    assert all(read(path)["api"] == list(version) for version, path in SNAPSHOTS)


def test_within_a_major_names_stay() -> None:
    for (old, before), (new, after) in pairwise(SNAPSHOTS):
        if old[0] == new[0]:
            lost = leaves(read(before)).keys() - leaves(read(after)).keys()
            assert not lost, f"API {new} lacks what {old} promised"


def test_every_op_was_there_since_a_version_that_this_core_has_reached() -> None:
    assert all(spec.since <= PLUGIN_API for spec in OPS.values())


def test_a_snapshot_that_was_promised_is_not_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin_surface, "FOLDER", tmp_path)
    monkeypatch.setattr("sys.argv", ["plugin_surface.py"])
    plugin_surface.main()
    plugin_surface.main()  # nothing has changed
    plugin_surface.snapshot().write_text("{}\n")
    with pytest.raises(SystemExit, match="raise PLUGIN_API"):
        plugin_surface.main()
