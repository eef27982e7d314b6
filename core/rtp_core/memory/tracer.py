"""The tracer: who holds which bytes, since which step, from where in the code; and what there was before.

The arena writes it, one line an allocation; reports read it. What is always kept costs next to nothing: the site of
each allocation, the last steps, the moment of the peak. Events and stacks are kept on demand.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter_ns
from types import CodeType, FrameType
from typing import Literal, NamedTuple, get_args

from rtp_core.errors import ConfigError

TraceLevel = Literal["off", "tags", "stacks"]
Lifetime = Literal["public", "persistent", "private"]
When = Literal["now", "peak", "oom"]

MAX_EVENTS = 1 << 18  # about 200 bytes each
MAX_STEPS = 1 << 14
MAX_SITES = 1 << 20  # stacks that differ: past them allocations are counted under their tag alone
MAX_FRAMES = 64  # innermost ones


class Frame(NamedTuple):
    """A place in Python code."""

    file: str
    line: int
    function: str


@dataclass(frozen=True, slots=True)
class Site:
    """Where allocations come from: the tag, and the frames of Python where stacks are kept, innermost first.

    Its number is what tables show as TRACE.
    """

    tag: str
    path: tuple[tuple[CodeType, int], ...] = ()  # (code, index of the instruction)

    @property
    def frames(self) -> tuple[Frame, ...]:
        return tuple(Frame(code.co_filename, _line(code, at), code.co_qualname) for code, at in self.path)


def _line(code: CodeType, at: int) -> int:
    return next((line for start, end, line in code.co_lines() if start <= at < end and line), code.co_firstlineno)


class Held(NamedTuple):
    """What the arena knows of an allocation. `nbytes` as rounded up; `step` in which it was made."""

    nbytes: int
    site: int
    step: int
    lifetime: Lifetime


# (time, address, bytes, site): an allocation, or with 0 bytes the return of one. A plain tuple: a name for each field
# would take as long as all the rest of noting it.
Event = tuple[int, int, int, int]


class Step(NamedTuple):
    """`phase`: "open", "load", "warm-up", "prefill", "decode" or "mixed". `blocks`: the KV blocks of each request.

    Times in nanoseconds since the tracer began.
    """

    number: int
    phase: str
    time_ns: int
    blocks: Mapping[str, Sequence[int]]


@dataclass(frozen=True, slots=True)
class Moment:
    """All that was held at one time, by address. `asked`: bytes and tag of the allocation that failed then."""

    time_ns: int
    step: int
    held: Mapping[int, Held]
    asked: tuple[int, str] | None = None


@dataclass(frozen=True, slots=True)
class KVGrid:
    """Where the blocks of the KV cache are: `num_blocks` of `block_nbytes`, one after the other, from `address`."""

    address: int
    num_blocks: int
    block_nbytes: int
    block_size: int  # tokens


@dataclass(slots=True)
class Tracer:
    """`sites[trace]` is what a number in a table means. `events` (see Event) and `steps` reach back only so far."""

    level: TraceLevel = "off"
    sites: list[Site] = field(default_factory=list)
    site_of_tag: dict[str, int] = field(default_factory=dict)
    events: deque[Event] = field(default_factory=lambda: deque(maxlen=MAX_EVENTS))
    steps: deque[Step] = field(default_factory=lambda: deque(maxlen=MAX_STEPS))
    moments: dict[When, Moment] = field(default_factory=dict)
    kv: KVGrid | None = None
    started_ns: int = field(default_factory=perf_counter_ns)
    _site_of_path: dict[tuple[object, ...], int] = field(default_factory=dict)
    _outer: CodeType | None = None  # of the frame that began the step: the frames above it are those of the step

    def __post_init__(self) -> None:
        self.steps.append(Step(0, "open", 0, {}))

    def now(self) -> int:
        """Nanoseconds since the tracer began."""
        return perf_counter_ns() - self.started_ns

    def begin_step(self, phase: str, blocks: Mapping[str, Sequence[int]], outer: CodeType | None) -> int:
        """What comes from now on belongs to a new step, whose number this returns."""
        number = self.steps[-1].number + 1
        self.steps.append(Step(number, phase, self.now(), blocks))
        self._outer = outer
        return number

    def new_site(self, tag: str) -> int:
        """The number of a tag that has none yet."""
        self.sites.append(Site(tag))
        self.site_of_tag[tag] = len(self.sites) - 1
        return len(self.sites) - 1

    def site_of_caller(self, tag: str) -> int:
        """The number of the tag together with the stack of the arena's caller."""
        frame: FrameType | None = sys._getframe(2)
        key: list[object] = [tag]
        outer = self._outer
        while frame is not None:
            code = frame.f_code
            key.append(id(code))
            key.append(frame.f_lasti)
            if code is outer:
                break
            frame = frame.f_back
        path = tuple(key)
        found = self._site_of_path.get(path)
        return self._new_stack(tag, path) if found is None else found

    def _new_stack(self, tag: str, key: tuple[object, ...]) -> int:
        if len(self.sites) >= MAX_SITES:
            found = self.site_of_tag.get(tag)
            return self.new_site(tag) if found is None else found
        path: list[tuple[CodeType, int]] = []
        frame: FrameType | None = sys._getframe(3)
        while frame is not None and len(path) < MAX_FRAMES:
            path.append((frame.f_code, frame.f_lasti))  # holding the code keeps its id from being used again
            frame = frame.f_back
        self.sites.append(Site(tag, tuple(path)))
        self._site_of_path[key] = len(self.sites) - 1
        return len(self.sites) - 1


def check_level(level: str) -> None:
    """Raises ConfigError for a level that there is not."""
    if level not in get_args(TraceLevel):
        raise ConfigError(f"trace_memory is {level!r}", why=f"expected {', '.join(get_args(TraceLevel))}")
