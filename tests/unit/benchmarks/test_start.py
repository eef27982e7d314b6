"""The benchmark of a start runs the command line as a process, and tells when its first byte came."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import start


def test_it_tells_of_time_and_memory(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "")  # which it unsets: as it was for the tests after this one
    start.main(["--rounds", "1", "--model", str(folder), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert 0 < found["rtp"]["first_token_s"] <= found["rtp"]["wall_s"]
    assert found["rtp"]["peak_rss_mib"] > 10
    assert found["first_token_limit_s"] == start.LIMIT_S and "llama.cpp" not in found
