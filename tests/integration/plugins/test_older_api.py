"""A wheel that was built for the plugin API before this core's still runs models."""

from __future__ import annotations

import json
from pathlib import Path

from rtp_core.plugin import PLUGIN_API

from ..cli.scripted_model import on_ref, write_model
from .conftest import Run


def test_a_wheel_of_the_major_before_loads_opens_and_generates_and_says_that_it_is_old(
    rtp: Run, tmp_path: Path
) -> None:
    assert PLUGIN_API[0] == 1, "the fixture wheel is of API 0: write the next one, and move the shim on"
    model = write_model(tmp_path)
    on_older = [argument if argument != "ref" else "older" for argument in on_ref(model)]
    short = ("--max-model-len", 64, "--json")  # it does not rehearse its worst steps: it runs them
    done = rtp("generate", "a", *on_older, *short, plugins="older,ref")
    assert done.returncode == 0, done.stderr
    expected = rtp("generate", "a", *on_ref(model), *short, plugins="ref")
    old, new = json.loads(done.stdout), json.loads(expected.stdout)
    assert (old["device"], old["token_ids"]) == ("older:0", new["token_ids"])
    assert "older: its plugin API 0.9 is the one before this core's" in done.stderr
    assert "pip install -U rtp-older" in done.stderr


def test_its_override_serves_and_its_manifest_must_still_name_it(rtp: Run) -> None:
    shown = json.loads(rtp("devices", "show", "older", "--json", plugins="older").stdout)
    assert shown["api"] == [0, 9]
    assert shown["overrides"] == ["older.gated"]
