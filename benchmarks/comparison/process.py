"""Engines as processes of their own: what they print, how long they take, and the most memory they held."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Timer
from typing import Any

TIMEOUT_S = 1800.0

Command = Sequence[str | os.PathLike[str]]


class EngineError(Exception):
    """A process ended with an error; the message has the last of what it said."""


@dataclass(frozen=True, slots=True)
class Finished:
    """Seconds from the start of a process to its first byte on standard output, and to its end."""

    output: str
    first_byte_s: float
    wall_s: float


def run(command: Command, timeout_s: float = TIMEOUT_S) -> Finished:
    """Raises EngineError where it fails or takes too long."""
    words = [os.fspath(word) for word in command]
    with tempfile.TemporaryFile() as said:
        start = time.perf_counter()
        # Unbuffered, so that the first byte is seen when it comes.
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=said, bufsize=0) as process:
            assert process.stdout is not None
            end = Timer(timeout_s, process.kill)
            end.start()
            output = process.stdout.read(1) or b""
            first_byte_s = time.perf_counter() - start
            while piece := process.stdout.read(1 << 16):
                output += piece
            process.wait()
            wall_s = time.perf_counter() - start
            end.cancel()
        if process.returncode != 0:
            said.seek(0)
            last = said.read().decode(errors="replace").strip().splitlines()[-3:]
            what = " ".join(os.path.basename(word) for word in words[:3])
            raise EngineError(f"{what} ended with {process.returncode}: {' | '.join(last)}")
    return Finished(output.decode(errors="replace"), first_byte_s, wall_s)


def peak_rss_bytes(command: Command) -> int:
    """The most resident memory of a process or, where larger, of one of its children. Raises EngineError.

    A small process starts it: what a fork has of its parent would count too, and ours may hold a model.
    """
    return int(run([sys.executable, "-S", "-c", _PEAK, *command]).output.split()[-1]) * 1024


_PEAK = (
    "import resource, subprocess, sys; code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL);"
    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)"
)


def run_json(command: Command) -> dict[str, Any]:
    """The document in the last line that a process prints. Raises EngineError."""
    finished = run(command)
    try:
        return dict(json.loads(finished.output.strip().splitlines()[-1]))
    except (IndexError, ValueError) as error:
        raise EngineError(f"{os.path.basename(command[0])} printed no JSON: {finished.output[-200:]!r}") from error
