"""The benchmark of the framework's own cost runs, and times steps that are replayed."""

from __future__ import annotations

import json
from pathlib import Path

import framework_cost
import pytest

from rtp_core.runner.decode_replay import DecodeReplay


def test_it_prints_a_row_for_each_batch(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--tokens", "6", "--rounds", "1", "--json"]
    framework_cost.main(["--batch", "1", "--batch", "3", "--model", str(folder), *few])
    first, second = json.loads(capsys.readouterr().out)["rows"]
    assert (first["batch"], first["limit_us"]) == (1, framework_cost.LIMITS_US[1])
    assert (second["batch"], second["limit_us"]) == (3, None)
    assert first["step_us"] > 0 and second["step_us"] > 0


def test_what_it_times_are_replayed_steps(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    logits = DecodeReplay.logits
    monkeypatch.setattr(DecodeReplay, "logits", lambda self, found: (sizes.append(len(found)), logits(self, found))[1])
    loaded = framework_cost.open_engine(folder)
    framework_cost.step_us(loaded, 2, 4, 0)
    loaded.device.close()
    assert loaded.why_eager == "" and sizes == [2, 2, 2]
