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

MAX_EVENTS = 1 << 18  # about 130 bytes each
MAX_STEPS = 1 << 14
FEW_STEPS = 1 << 8  # where no events are kept that could belong to older ones
MAX_SITES = 1 << 20  # stacks that differ: past them allocations are counted under their tag alone
NO_TIME = 0  # of a return: the arena notices it at its next act, whose time it gets. Clocks take their time, too
NO_ADDRESS = -1  # of a moment, which is no event but has a time
MAX_FRAMES = 64  # innermost ones
MAX_COURSE = 1 << 16  # allocations of a step by which the next one is known

_CALLER = 3  # frames from where a stack is walked up to the arena's caller


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


HeldRow = tuple[int, int, int, Lifetime]  # the same, as the arena notes it: names would double the time that takes


class Event(NamedTuple):
    """An allocation, or with 0 bytes the return of one."""

    time_ns: int
    address: int
    nbytes: int
    site: int


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
    """All that was held at one time. `asked`: bytes and tag of the allocation that failed then."""

    time_ns: int
    step: Step
    rows: Mapping[int, HeldRow]
    asked: tuple[int, str] | None = None

    @property
    def held(self) -> dict[int, Held]:
        """By address."""
        return {address: Held(*row) for address, row in self.rows.items()}


@dataclass(frozen=True, slots=True)
class KVGrid:
    """Where the blocks of the KV cache are: `num_blocks` of `block_nbytes`, one after the other, from `address`."""

    address: int
    num_blocks: int
    block_nbytes: int
    block_size: int  # tokens


Course = list[tuple[tuple[int, str, CodeType, int], int]]


@dataclass(slots=True)
class Tracer:
    """`sites[trace]` is what a number in a table means. `events` and `steps` reach back only so far.

    `ring` has the fields of the events one after the other, their times as the clock has them: an object for each
    would take longer to make than all the rest of noting it.
    """

    level: TraceLevel = "off"
    sites: list[Site] = field(default_factory=list)
    site_of_tag: dict[str, int] = field(default_factory=dict)
    ring: list[int] = field(default_factory=list)
    has_dropped: bool = False  # events that were older
    steps: deque[Step] = field(default_factory=deque)
    moments: dict[When, Moment] = field(default_factory=dict)
    kv: KVGrid | None = None
    started_ns: int = field(default_factory=perf_counter_ns)
    _site_of_path: dict[tuple[object, ...], int] = field(default_factory=dict)
    _outer: CodeType | None = None  # of the frame that began the step: the frames above it are those of the step
    _courses: dict[str, Course] = field(default_factory=dict)  # by phase, the last step's allocations and their sites
    _course: Course = field(default_factory=list)  # of this phase
    _at: int = 0  # how far this step has followed it
    _follows: bool = False

    def __post_init__(self) -> None:
        self.steps.append(Step(0, "open", 0, {}))

    @property
    def events(self) -> list[Event]:
        """The oldest first, their times since the tracer began."""
        field = reversed(self.ring)
        found, last = [], perf_counter_ns()
        for site, nbytes, address, time in zip(field, field, field, field, strict=True):
            last = last if time == NO_TIME else time
            if address != NO_ADDRESS:
                found.append(Event(last - self.started_ns, address, nbytes, site))
        return found[::-1]

    def now(self) -> int:
        """Nanoseconds since the tracer began."""
        return perf_counter_ns() - self.started_ns

    def begin_step(self, phase: str, blocks: Mapping[str, Sequence[int]], outer: CodeType | None) -> int:
        """What comes from now on belongs to a new step, whose number this returns."""
        if len(self.ring) > len(Event._fields) * MAX_EVENTS:
            del self.ring[: -len(Event._fields) * (MAX_EVENTS // 2)]
            self.has_dropped = True
        number = self.steps[-1].number + 1
        self.steps.append(Step(number, phase, self.now(), blocks))
        while len(self.steps) > (FEW_STEPS if self.level == "off" else MAX_STEPS):
            self.steps.popleft()
        self._outer = outer
        self._course = self._courses.setdefault(phase, [])
        self._at, self._follows = 0, True
        return number

    def new_site(self, tag: str) -> int:
        """The number of a tag that has none yet."""
        self.sites.append(Site(tag))
        self.site_of_tag[tag] = len(self.sites) - 1
        return len(self.sites) - 1

    def site_of_caller(self, nbytes: int, tag: str) -> int:
        """The number of the tag together with the stack of the arena's caller, `Device.alloc` as a rule.

        Walking a stack takes longer than an allocation. So a step whose allocations so far are those of the last step
        of its phase, by size, tag and the line that asks the device for them, is taken to go the same way.
        """
        try:
            asker = sys._getframe(3)
        except ValueError:  # the arena is asked by a script itself
            asker = sys._getframe(2)
        here = nbytes, tag, asker.f_code, asker.f_lasti
        course, at = self._course, self._at
        if self._follows:
            if at < len(course) and course[at][0] == here:
                self._at = at + 1
                return course[at][1]
            self._follows = False
            del course[at:]
        site = self._site_of_stack(tag)
        if len(course) < MAX_COURSE:
            course.append((here, site))
        return site

    def _site_of_stack(self, tag: str) -> int:
        frame: FrameType | None = sys._getframe(_CALLER)
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
        frame: FrameType | None = sys._getframe(_CALLER + 1)
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
