"""The `rtp` process: streams, signals, and the exit code. What it can do is in `app`.

Nothing is imported here that takes time: an interrupt is handled from the first moment.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

from rtp_core.cli.exit_code import ExitCode
from rtp_core.cli.no_collections import no_collections


def main() -> NoReturn:
    """Run the command line of this process, and end it."""
    code: int
    try:
        code = _run()
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    sys.exit(code)


def _run() -> int:
    _prepare_streams()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # under nohup it is ignored, and stays so
            signal.signal(number, _exit_on_signal)
    with no_collections():
        from rtp_core.cli.app import command

        run = command(sys.argv[1:])
    code: int = ExitCode.OK
    try:
        run(prog_name="rtp")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else ExitCode.BUG
    from rtp_core.cli.console import discard_stdout

    try:
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough
        discard_stdout()
    return code


def _prepare_streams() -> None:
    if sys.stdout is None:  # closed by the parent; what a library prints must not fail
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # models write what a locale cannot


def _exit_on_signal(number: int, frame: FrameType | None) -> NoReturn:
    """Unwind, so that children end, half-made files go and the terminal is restored."""
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
