"""`rtp plugin new` and `rtp plugin todo` as commands: what they write, and how they fail."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from rtp_core.cli.app import app
from rtp_core.device.borrowed import WRITING_ORDER
from rtp_core.plugin import DeviceError, Region
from rtp_test_devices.handle import HandleDevice

RunRtp = Callable[..., Result]


@pytest.fixture
def rtp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunRtp:
    """rtp(*arguments) in an empty folder, under an environment without our variables."""
    for name in [name for name in os.environ if name.startswith("RTP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    return lambda *arguments: runner.invoke(app(), [str(argument) for argument in arguments])


def test_it_writes_a_project_and_says_what_and_what_next(rtp: RunRtp, tmp_path: Path) -> None:
    done = rtp("plugin", "new", "acme")
    assert done.exit_code == 0
    listed = [tmp_path / line for line in done.stdout.splitlines()]
    assert sorted(listed) == sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert tmp_path / "rtp-acme" / "rtp_acme" / "device.py" in listed
    assert "pip install -e ./rtp-acme && rtp devices check acme --level primitive" in done.stderr
    assert os.listdir(tmp_path) == ["rtp-acme"]


def test_directory_is_made_where_it_is_missing(rtp: RunRtp, tmp_path: Path) -> None:
    done = rtp("plugin", "new", "my_chip", "--native", "--directory", tmp_path / "a" / "b")
    assert done.exit_code == 0
    assert (tmp_path / "a" / "b" / "rtp-my-chip" / "csrc" / "rtp_my_chip.h").is_file()


def test_files_have_everyday_permissions(rtp: RunRtp, tmp_path: Path) -> None:
    rtp("plugin", "new", "acme")
    (tmp_path / "other").mkdir()
    for path, like in ((tmp_path / "rtp-acme", tmp_path / "other"),):
        assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(like.stat().st_mode)


def test_a_kind_that_is_installed_already_is_mentioned(rtp: RunRtp) -> None:
    done = rtp("plugin", "new", "handle")
    assert done.exit_code == 0
    assert "rtp-test-devices provides kind handle already" in done.stderr


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch, lambda path: path.symlink_to("nowhere")])
def test_nothing_is_overwritten(rtp: RunRtp, tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "rtp-acme")
    done = rtp("plugin", "new", "acme")
    assert done.exit_code == 2
    assert "error: rtp-acme exists" in done.stderr and "--directory" in done.stderr
    assert not list((tmp_path / "rtp-acme").glob("*"))


@pytest.mark.parametrize("name", ["Acme", "rtp-acme", "1st", "auto", "ref", "", "../evil"])
def test_a_bad_name_is_a_usage_error_and_writes_nothing(rtp: RunRtp, tmp_path: Path, name: str) -> None:
    done = rtp("plugin", "new", name)
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ") and "try:" in done.stderr
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_written_ends_with_1(rtp: RunRtp, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = rtp("plugin", "new", "acme", "--directory", "file")
    assert done.exit_code == 1
    assert "error: cannot write file/rtp-acme" in done.stderr and "--directory" in done.stderr


def test_a_full_disk_leaves_nothing_half_written(rtp: RunRtp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = Path.write_text

    def write_text(self: Path, *arguments: object, **options: object) -> int:
        if self.name == "plugin.py":
            raise OSError(28, "No space left on device")
        return written(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "write_text", write_text)
    done = rtp("plugin", "new", "acme")
    assert done.exit_code == 1
    assert "No space left on device" in done.stderr
    assert os.listdir(tmp_path) == []


def test_todo_of_one_kind_as_json(rtp: RunRtp) -> None:
    done = rtp("plugin", "todo", "handle", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout) == {
        "schema": 1,
        "kind": "handle",
        "borrowed": [],
        "own": list(WRITING_ORDER),
        "overrides": ["handle.gated_activation"],
    }


def test_todo_of_all_kinds(rtp: RunRtp) -> None:
    done = rtp("plugin", "todo")
    assert done.exit_code == 0
    assert "ref: primitives still borrowed: 0 of 15" in done.stdout
    assert "  overrides: handle.gated_activation" in done.stdout
    document = json.loads(rtp("plugin", "todo", "--json").stdout)
    assert {"handle", "ref"} <= {plugin["kind"] for plugin in document["plugins"]}


def test_todo_of_all_kinds_goes_on_past_one_that_cannot_be_opened(rtp: RunRtp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTP_PLUGINS", "-handle")
    done = rtp("plugin", "todo")
    assert done.exit_code == 0
    assert "handle:" not in done.stdout and "handle is BLOCKED" in done.stderr
    unopened = {
        plugin["kind"]: plugin["state"] for plugin in json.loads(rtp("plugin", "todo", "--json").stdout)["unopened"]
    }
    assert unopened["handle"] == "BLOCKED"
    assert "ref" not in unopened


def test_todo_of_all_kinds_tells_why_a_device_did_not_open(rtp: RunRtp, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: HandleDevice, nbytes: int) -> Region:
        raise DeviceError("the card is busy")

    monkeypatch.setattr(HandleDevice, "reserve", refuse)
    done = rtp("plugin", "todo")
    assert done.exit_code == 0
    assert "ref: primitives still borrowed" in done.stdout
    assert "handle is AVAILABLE: the card is busy" in done.stderr
    one = rtp("plugin", "todo", "handle")
    assert (one.exit_code, one.stdout) == (4, "")


def test_todo_of_an_unknown_kind_ends_with_4(rtp: RunRtp) -> None:
    done = rtp("plugin", "todo", "warp")
    assert done.exit_code == 4
    assert "error: no device 'warp'" in done.stderr


@pytest.mark.parametrize("kind", ["", "@rtp-core"])
def test_todo_of_no_kind_at_all_is_a_usage_error(rtp: RunRtp, kind: str) -> None:
    assert rtp("plugin", "todo", kind).exit_code == 2


def test_todo_of_a_kind_that_is_not_available_ends_with_4(rtp: RunRtp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTP_PLUGINS", "-handle")
    done = rtp("plugin", "todo", "handle")
    assert done.exit_code == 4
    assert "BLOCKED" in done.stderr
