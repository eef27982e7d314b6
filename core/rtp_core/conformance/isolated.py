"""Running the suite in a process of its own: a device that crashes or hangs fails one case, and the rest goes on."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import astuple, dataclass, field
from typing import Any

from rtp_core.conformance.case import Outcome

CASE_LIMIT_S = 120.0  # for one case, or for opening the device
MAX_CRASHES = 8


@dataclass(slots=True)
class Run:
    """What came out of it. `borrowed`: primitives that are another device's."""

    outcomes: list[Outcome] = field(default_factory=list)
    borrowed: list[str] = field(default_factory=list)
    is_done: bool = False


def run_isolated(
    device: str, level: str, replay: str | None = None, *, progress: Callable[[Outcome], None] = lambda outcome: None
) -> Run:
    """Check a device of an installed plugin. `progress` is told of every case."""
    run = Run()
    for _ in range(MAX_CRASHES):
        order = {"device": device, "level": level, "replay": replay, "past": [astuple(o) for o in run.outcomes]}
        under_way, death = _attempt(order, run, progress)
        if run.is_done:
            return run
        group, name = under_way or ("contract", "it can be opened")
        crash = Outcome(group, name, death)
        run.outcomes.append(crash)
        progress(crash)
        if under_way is None:
            return run
    run.outcomes.append(Outcome(group, "the rest of it", f"given up after {MAX_CRASHES} processes that ended early"))
    return run


def _attempt(
    order: dict[str, Any], run: Run, progress: Callable[[Outcome], None]
) -> tuple[tuple[str, str] | None, str]:
    """One process. Returns the case that was under way when it ended, and how it ended."""
    reading, writing = os.pipe()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    child = subprocess.Popen(
        [sys.executable, "-m", "rtp_core.conformance.worker", str(writing)],
        stdin=subprocess.PIPE,
        stdout=2,  # beside the suite's own words for people
        env=environment,
        pass_fds=(writing,),
    )
    os.close(writing)
    assert child.stdin is not None
    with suppress(BrokenPipeError), child.stdin:  # it died before it read: how, its exit status says
        child.stdin.write(json.dumps(order).encode() + b"\n")
    under_way: tuple[str, str] | None = None
    with os.fdopen(reading, "rb", buffering=0) as channel:
        for event, *values in _events(channel, child):
            if event == "begin":
                under_way = values[0], values[1]
            elif event == "end":
                under_way = None
                run.outcomes.append(Outcome(*values))
                progress(run.outcomes[-1])
            else:
                run.borrowed, run.is_done = values[0], True
    return under_way, _epitaph(child.wait())


def _events(channel: Any, child: subprocess.Popen[bytes]) -> Any:
    """Lines of JSON until the process closes its end; one that is silent for too long is killed."""
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(channel, selectors.EVENT_READ)
        while True:
            if not selector.select(CASE_LIMIT_S):
                child.kill()
            data = channel.read(1 << 16)
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            yield from map(json.loads, lines)


def _epitaph(status: int) -> str:
    if status == -signal.SIGKILL:
        return f"expected the process to live, got SIGKILL: it was silent for {CASE_LIMIT_S:g} s, or out of memory"
    if status < 0:
        return f"expected the process to live, got {signal.Signals(-status).name}"
    return f"expected the process to live, got its end with exit status {status}"
