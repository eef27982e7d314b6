"""Where words go: data to standard output, everything said to a human to standard error.

Text from outside (models, plugins, files) is never markup, and never controls a terminal.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtp_core.errors import RtpError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

SCHEMA = 1  # of every JSON document

_WIDE = 1 << 12  # characters

# C0 and C1 controls and DEL: an escape sequence cannot begin without one of them.
_CONTROLS = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)])
_UNSAFE = dict.fromkeys(code for code in _CONTROLS if chr(code) not in "\n\t")


class OutputError(RtpError):
    """Standard output, or a file that was asked for, cannot be written, as on a full disk."""


def write(text: str) -> None:
    """Text to standard output, at once. On a terminal without control characters, elsewhere as it is.

    Raises BrokenPipeError where nobody reads any more, OutputError where it cannot be written.
    """
    _put(harmless(text) if sys.stdout.isatty() else text)


def write_styled(renderable: RenderableType) -> None:
    """Something of rich's to standard output, in colour on a terminal. Text from outside in it must be `plain`."""
    from rich.console import Console

    # A line is as long as what it says: the terminal wraps it, and a pipe gets it whole.
    console = Console(file=sys.stdout, width=_WIDE, highlight=False, markup=False)
    with console.capture() as capture:
        console.print(renderable, soft_wrap=True)
    _put(capture.get())


def _put(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        discard_stdout()  # or the interpreter would fail on the rest when it ends
        raise OutputError("cannot write standard output", why=error.strerror or str(error)) from error


def write_file(path: str, text: str) -> None:
    """Text to a file, whole or not at all. Raises OutputError where it cannot be written."""
    partial = Path(path + ".partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise OutputError(f"cannot write {path}", why=error.strerror or str(error)) from error


def check_writable(path: str) -> None:
    """Raises OutputError for a file that could not be written, before there is anything to write."""
    folder = Path(path).parent
    if Path(path).is_dir():
        raise OutputError(f"cannot write {path}", why="it is a folder")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"cannot write {path}", why=f"{folder} is not there, or may not be written")


def write_json(document: dict[str, Any]) -> None:
    """One document to standard output. ASCII, so that no locale and no terminal can spoil it."""
    indent = 2 if sys.stdout.isatty() else None
    write(json.dumps({"schema": SCHEMA, **document}, indent=indent, allow_nan=False) + "\n")


def note(text: str) -> None:
    """One line for the human."""
    if sys.stderr.isatty():
        stderr().print(plain(text), markup=False, highlight=False, soft_wrap=True, style="dim")
    else:
        sys.stderr.write(plain(text) + "\n")


def stderr() -> Console:
    """The console on standard error."""
    from rich.console import Console

    return Console(stderr=True)


def harmless(text: str) -> str:
    """Text from outside without control characters but newlines and tabs."""
    return text.translate(_UNSAFE)


def plain(text: str) -> str:
    """Text from outside on one line, without control characters."""
    return " ".join(text.split()).translate(_CONTROLS)


def discard_stdout() -> None:
    """Let what is still to be written vanish: its reader is gone."""
    with suppress(OSError, ValueError):  # a stream without a file has nothing to fear
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
