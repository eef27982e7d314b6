"""Asks plugins what they are in a process of their own, and says what became of one that took it down.

A fresh interpreter, never a fork: drivers and threads do not survive one. It serves plugin after plugin; where one
crashes or hangs, that plugin is to blame, and the next gets another interpreter.
"""

from __future__ import annotations

import fcntl
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from rtp_core.errors import ConfigError

FAILURES = {  # by the phase in which they happen
    "load": "its module failed to load",
    "manifest": "its manifest failed",
    "probe": "its probe failed",
    "report": "its environment report failed",
}
TIME_LIMIT_S = 10.0  # for one plugin: interpreter, import, manifest and probe
MAX_TIME_LIMIT_S = 3600.0
GRACE_S = 1.0  # in which an interpreter that is over its limit prints the stack of what hangs
OUTPUT_BYTES = 1 << 16  # kept of what a plugin prints, the end of it
ANSWER_BYTES = 1 << 20  # at most, in one line

# The caller's sys.path comes first of all, then the caller's core: the child sees what the caller sees.
_BOOT = """
import json, os, sys
requests = os.fdopen(int(sys.argv.pop()), "rb")
first = json.loads(requests.readline())
sys.path[:] = first["path"]
for end in (requests.fileno(), first["answers"]):
    os.set_inheritable(end, False)  # what a plugin starts does not hold them open
from rtp_core.device.probe import serve
serve(requests, first["answers"], first["time_limit"])
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """`answer` is what `probe` found out, or None where it did not live to tell: then `failure` says why."""

    answer: Mapping[str, Any] | None
    failure: str
    output: str  # what the plugin printed, and the stack it crashed or hung with


class _DiedError(Exception):
    """The child is gone, or has to go; the message says how."""


class Prober:
    """A context in which plugins can be asked. Its process starts with the first question, or before it with `start`,
    and ends with the context. `time_limit` (seconds) is for each plugin."""

    def __init__(self, time_limit: float = TIME_LIMIT_S) -> None:
        self._time_limit = time_limit
        self._child: _Child | None = None

    @classmethod
    def from_environment(cls) -> Self:
        """With the time limit in RTP_PROBE_SECONDS. Raises ConfigError where that is nonsense."""
        text = os.environ.get("RTP_PROBE_SECONDS", "")
        try:
            seconds = float(text or TIME_LIMIT_S)
        except ValueError:
            seconds = 0.0
        if not 0 < seconds <= MAX_TIME_LIMIT_S:
            raise ConfigError(f"RTP_PROBE_SECONDS is {text!r}", why=f"expected seconds, up to {MAX_TIME_LIMIT_S:g}")
        return cls(seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    def start(self) -> None:
        """Have its process ready for the first question."""
        with suppress(OSError):  # that question tries again, and is told
            self._child = _Child(self._time_limit)

    def ask(self, kind: str, value: str, api: tuple[int, int], *, report: bool) -> Outcome:
        """Load the plugin that an entry point names, probe it, and wait for the answer, but not for ever."""
        phase, output = "", bytearray()
        try:
            if self._child is None:
                self._child = _Child(self._time_limit)
            self._child.send({"kind": kind, "value": value, "api": list(api), "report": report})
            deadline = time.monotonic() + self._time_limit
            while True:
                message = self._child.receive(deadline, output)
                if isinstance(message.get("outcome"), dict):
                    self._child.drain(output)
                    return Outcome(message["outcome"], "", _text(output))
                if message.get("phase") not in FAILURES:
                    raise _DiedError(f"its process answered {str(message)[:80]!r}")
                phase = message["phase"]
        except (_DiedError, OSError) as error:
            if self._child is not None:
                self._child.drain(output)
            self._end()
            what = FAILURES.get(phase, "the interpreter that loads it failed")
            return Outcome(None, f"{what}: {error}", _text(output))
        except BaseException:  # an interrupt: nothing is left behind
            self._end()
            raise

    def _end(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None


class _Child:
    def __init__(self, time_limit: float) -> None:
        self._time_limit = time_limit
        request_end, self._requests = _pipe()
        self._answers, answer_end = _pipe()
        self._output, output_end = _pipe()
        self._pending = b""
        try:
            self._process = subprocess.Popen(
                [sys.executable, *_interpreter_flags(), "-c", _BOOT, str(request_end)],
                stdin=subprocess.DEVNULL,
                stdout=output_end,
                stderr=output_end,
                pass_fds=(request_end, answer_end),
                start_new_session=True,  # so that all of it can be ended, with what a probe has started
            )
        except BaseException:
            for end in (self._requests, self._answers, self._output):
                os.close(end)
            raise
        finally:
            for end in (request_end, answer_end, output_end):
                os.close(end)
        os.set_blocking(self._output, False)
        self.send(
            {"path": [p for p in sys.path if isinstance(p, str)], "answers": answer_end, "time_limit": time_limit}
        )

    def send(self, message: Mapping[str, Any]) -> None:
        """Raises _DiedError where nobody is there to read it."""
        try:
            os.write(self._requests, json.dumps(message).encode() + b"\n")
        except BrokenPipeError:
            raise _DiedError(self._epitaph()) from None

    def receive(self, deadline: float, output: bytearray) -> dict[str, Any]:
        """The next message; what is printed meanwhile goes to `output`. Raises _DiedError, for nonsense too."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._answers, selectors.EVENT_READ)
            selector.register(self._output, selectors.EVENT_READ)
            while b"\n" not in self._pending:
                left = deadline + GRACE_S - time.monotonic()
                if left <= 0:
                    raise _DiedError(self._over_time())
                for key, _ in selector.select(left):
                    if key.fd == self._output:
                        if not self.drain(output):
                            selector.unregister(self._output)
                        continue
                    data = os.read(self._answers, ANSWER_BYTES)
                    if not data:
                        raise _DiedError(self._over_time() if time.monotonic() >= deadline else self._epitaph())
                    self._pending += data
                    if len(self._pending) > ANSWER_BYTES:
                        raise _DiedError(f"its answer is longer than {ANSWER_BYTES} bytes")
        line, _, self._pending = self._pending.partition(b"\n")
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):  # a plugin has written into the channel
            raise _DiedError(f"its process answered {line[:80]!r}")
        return message

    def drain(self, output: bytearray) -> bool:
        """Move what has been printed to `output`, which keeps the end of it. False: there will be no more."""
        with suppress(BlockingIOError):
            while data := os.read(self._output, OUTPUT_BYTES):
                output += data
                del output[:-OUTPUT_BYTES]
            return False
        return True

    def _over_time(self) -> str:
        return f"no answer within {self._time_limit:g} s (RTP_PROBE_SECONDS)"

    def _epitaph(self) -> str:
        """How the process ended."""
        try:
            code = self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            return "its process closed the channel to this one"
        if code >= 0:
            return f"its process ended with status {code}"
        try:
            return f"killed by {signal.Signals(-code).name} ({signal.strsignal(-code)})"
        except ValueError:
            return f"killed by signal {-code}"

    def close(self) -> None:
        """End the process, and what it has started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):  # a process that a driver holds in the kernel cannot be waited for
            self._process.wait(GRACE_S)
        for end in (self._requests, self._answers, self._output):
            os.close(end)


def _pipe() -> tuple[int, int]:
    """(reading end, writing end), neither in the place of a standard stream that is closed."""
    low = os.pipe()
    try:
        first, second = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 3) for end in low)
    finally:
        for end in low:
            os.close(end)
    return first, second


def _interpreter_flags() -> list[str]:
    flags = ["-P"]  # a file in the current folder must not pass for a module of ours
    if sys.flags.ignore_environment:
        flags.append("-E")
    if sys.flags.no_user_site:
        flags.append("-s")
    return flags


def _text(output: bytearray) -> str:
    return output.decode("utf-8", "replace")
