"""A report that a vendor ships is shown without importing anything, and is stale once anything has changed."""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rtp_core.cli.app import app
from rtp_core.device.conformance_report import dist_hash

from .conftest import MakePlugin


def write_record(folder: Path) -> None:
    """What an installer would have written."""
    lines = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "RECORD" and "__pycache__" not in path.parts:
            digest = base64.urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest()).rstrip(b"=").decode()
            lines.append(f"{path.relative_to(folder).as_posix()},sha256={digest},{path.stat().st_size}\n")
    (folder / "rtp_acme_bad-0.3.dist-info" / "RECORD").write_text("".join(lines))


def listed() -> dict[str, Any]:
    rows = json.loads(CliRunner().invoke(app(), ["devices", "list", "--json"]).stdout)["plugins"]
    (row,) = [row for row in rows if row["kind"] == "acme"]
    return row


@pytest.fixture(scope="module")
def reports() -> dict[str, str]:
    """By the hash of what was checked, the report: the plugin is the same in every test, and checked once."""
    return {}


@pytest.fixture
def shipped(make_plugin: MakePlugin, reports: dict[str, str]) -> Path:
    """A plugin that ships the report of its own check."""
    folder = make_plugin()
    write_record(folder)
    path = folder / "rtp_acme_bad" / "conformance.json"
    key = dist_hash("rtp-acme-bad")
    assert key is not None
    if key not in reports:
        options = ["devices", "check", "acme", "--level", "primitive", "--report", str(path)]
        assert CliRunner().invoke(app(), options).exit_code == 0
        reports[key] = path.read_text()
    path.write_text(reports[key])
    write_record(folder)
    return folder


def edit(folder: Path, **fields: Any) -> None:
    path = folder / "rtp_acme_bad" / "conformance.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_without_a_report_there_is_none(make_plugin: MakePlugin) -> None:
    write_record(make_plugin())
    assert listed()["conformance"] is None


def test_a_shipped_report_is_listed_as_the_vendors_own_word(shipped: Path) -> None:
    found = listed()["conformance"]
    assert (found["level"], found["failed"], found["stale"], found["self_reported"]) == ("primitive", 0, False, True)
    assert found["passed"] > 100
    assert f"primitive {found['passed']}/{found['passed']}, self-reported" in CliRunner().invoke(
        app(), ["devices", "list"]
    ).stdout  # fmt: skip
    assert "rtp_acme_bad.device" not in sys.modules


def test_the_report_is_not_part_of_what_it_vouches_for(shipped: Path) -> None:
    before = dist_hash("rtp-acme-bad")
    edit(shipped, device="another")
    write_record(shipped)
    assert dist_hash("rtp-acme-bad") == before is not None


def test_it_is_stale_once_a_file_has_changed(shipped: Path) -> None:
    (shipped / "rtp_acme_bad" / "device.py").write_text("# new\n")
    write_record(shipped)
    assert listed()["conformance"]["stale"] is True
    assert ", stale" in CliRunner().invoke(app(), ["devices", "list"]).stdout


def test_it_is_stale_for_another_plugin_api(shipped: Path) -> None:
    edit(shipped, api=[0, 9])
    assert listed()["conformance"]["stale"] is True


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"schema": 1, "level": "full", "passed": -1, "failed": 0}', "[" * 9999]
)
def test_a_file_that_is_no_report_is_shown_as_such(shipped: Path, text: str) -> None:
    (shipped / "rtp_acme_bad" / "conformance.json").write_text(text)
    assert listed()["conformance"].keys() == {"problem", "stale"}
    assert "unreadable" in CliRunner().invoke(app(), ["devices", "list"]).stdout


def test_an_editable_install_has_no_hash(make_plugin: MakePlugin) -> None:
    folder = make_plugin()
    (folder / "rtp_acme_bad-0.3.dist-info" / "direct_url.json").write_text('{"dir_info": {"editable": true}}')
    write_record(folder)
    assert dist_hash("rtp-acme-bad") is None
    assert dist_hash("no-such-distribution") is None


def test_a_report_that_cannot_be_written_is_exit_code_1(make_plugin: MakePlugin) -> None:
    folder = make_plugin()
    options = ["devices", "check", "acme", "--level", "primitive", "--report", str(folder / "none" / "r.json")]
    result = CliRunner().invoke(app(), options)
    assert result.exit_code == 1
    assert "cannot write the report" in result.stderr
