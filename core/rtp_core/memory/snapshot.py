"""Snapshot: what a tracer knows, as a value and as a file of JSON (schema 1) that later tools read.

A file from outside is checked as a whole before anybody uses it: counts, ranges, and that allocations do not overlap.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rtp_core.errors import CacheError, SnapshotError
from rtp_core.memory.arena import Arena
from rtp_core.memory.tracer import Frame, Held, KVGrid, Lifetime, Moment, Step, TraceLevel, When

MAX_FILE_BYTES = 1 << 30
_MAX_ROWS = 1 << 22
_MAX_INT = 2**63 - 1
_MAX_TEXT = 10_000  # characters
_STRICT = ConfigDict(frozen=True, strict=True, extra="ignore", allow_inf_nan=False)

Count = Annotated[int, Field(ge=0, le=_MAX_INT)]
Text = Annotated[str, Field(max_length=_MAX_TEXT)]
Blocks = Annotated[tuple[Count, ...], Field(max_length=_MAX_ROWS)]


class SavedSite(BaseModel):
    """A trace: the tag, and the numbers of its frames, innermost first."""

    model_config = _STRICT

    tag: Annotated[str, Field(min_length=1, max_length=_MAX_TEXT)]
    frames: tuple[Count, ...] = ()


class SavedMoment(BaseModel):
    """held: (address, bytes, trace, step, lifetime) by address. asked: bytes and tag that there was no room for."""

    model_config = _STRICT

    time_ns: Count
    step: Count
    held: Annotated[tuple[tuple[Count, Count, Count, Count, Lifetime], ...], Field(max_length=_MAX_ROWS)]
    asked: tuple[Count, Text] | None = None

    def by_address(self) -> dict[int, Held]:
        return {row[0]: Held(*row[1:]) for row in self.held}

    @property
    def used_bytes(self) -> int:
        return sum(row[1] for row in self.held)


class SavedStep(BaseModel):
    """blocks: for each request of the step (n, ids): its KV blocks are the first n it had, and then these."""

    model_config = _STRICT

    number: Count
    phase: Text
    time_ns: Count
    blocks: Mapping[Text, tuple[Count, Blocks]]


class SavedGrid(BaseModel):
    """`num_blocks` blocks of `block_nbytes` bytes and `block_size` tokens, one after the other, from `address`."""

    model_config = _STRICT

    address: Count
    num_blocks: Annotated[int, Field(ge=1, le=_MAX_ROWS)]
    block_nbytes: Count
    block_size: Count


class Snapshot(BaseModel):
    """Addresses in [start, end); times in nanoseconds since the tracer began, steps numbered from 0.

    events: (time, address, bytes, trace), with 0 bytes the return of an allocation; older ones may be gone.
    beside: bytes that the device's libraries held beside the arena when the snapshot was made, by what held them.
    """

    model_config = _STRICT | ConfigDict(populate_by_name=True)

    version: Annotated[Literal[1], Field(alias="schema")] = 1
    kind: Literal["rtp-memory"] = "rtp-memory"
    device: Text
    model: Text | None = None
    start: Count
    end: Count
    alignment: Annotated[int, Field(ge=1, le=1 << 30)]
    level: TraceLevel
    frames: Annotated[tuple[tuple[Text, Count, Text], ...], Field(max_length=_MAX_ROWS)]
    traces: Annotated[tuple[SavedSite, ...], Field(max_length=_MAX_ROWS)]
    moments: Mapping[When, SavedMoment]
    steps: Annotated[tuple[SavedStep, ...], Field(max_length=_MAX_ROWS)]
    events: Annotated[tuple[tuple[Count, Count, Count, Count], ...], Field(max_length=_MAX_ROWS)] = ()
    has_dropped: bool = False
    kv: SavedGrid | None = None
    beside: Annotated[Mapping[Text, Count], Field(max_length=_MAX_ROWS)] = Field(default_factory=dict)

    @classmethod
    def of(cls, arena: Arena, *, model: str | None = None, beside: Mapping[str, int] | None = None) -> Self:
        """What an arena's tracer knows now, and what is held beside it."""
        tracer = arena.tracer
        found = ((when, arena.moment(when)) for when in get_args(When))
        moments = {when: moment for when, moment in found if moment is not None}
        steps = {step.number: step for step in (*(moment.step for moment in moments.values()), *tracer.steps)}
        frames: dict[Frame, int] = {}
        traces = [
            SavedSite(tag=_text(site.tag), frames=tuple(frames.setdefault(f, len(frames)) for f in site.frames))
            for site in tracer.sites
        ]
        grid = tracer.kv
        return cls(
            device=_text(arena.name),
            model=None if model is None else _text(model),
            start=arena.span[0],
            end=arena.span[1],
            alignment=arena.alignment,
            level=tracer.level,
            frames=tuple((_text(frame.file), frame.line, _text(frame.function)) for frame in frames),
            traces=tuple(traces),
            moments={when: _saved(moment) for when, moment in moments.items()},
            steps=tuple(_deltas(steps[number] for number in sorted(steps))),
            events=tuple(tracer.events),
            has_dropped=tracer.has_dropped,
            kv=None if grid is None else _saved_grid(grid),
            beside={_text(holder): nbytes for holder, nbytes in (beside or {}).items()},
        )

    def save(self, path: str | PathLike[str]) -> None:
        """Write the file, whole or not at all. Raises CacheError where it cannot be written."""
        target = Path(path)
        partial = target.with_name(target.name + ".partial")
        try:
            partial.write_text(self.model_dump_json(by_alias=True), encoding="utf-8")
            partial.replace(target)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise CacheError("cannot write a memory snapshot", where=str(path), why=error.strerror or "") from error

    @classmethod
    def read(cls, path: str | PathLike[str]) -> Self:
        """Raises SnapshotError for a file that is not there, or not a snapshot as this version writes it."""
        where = str(path)
        try:
            with open(path, "rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise _bad("cannot read a memory snapshot", where, error.strerror or str(error)) from error
        if len(data) > MAX_FILE_BYTES:
            raise _bad("bad memory snapshot", where, f"it is larger than {MAX_FILE_BYTES} bytes")
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            raise _bad("bad memory snapshot", where, _reason(error)) from None

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.end <= self.start:
            raise ValueError(f"the region [{self.start:#x}, {self.end:#x}) is empty")
        _below(len(self.frames), (f for trace in self.traces for f in trace.frames), "frame")
        for when, moment in self.moments.items():
            at = self.start
            for address, nbytes, *_ in moment.held:
                if address < at or nbytes == 0 or address + nbytes > self.end:
                    raise ValueError(f"the allocation at {address:#x} ({when}) overlaps another or leaves the region")
                at = address + nbytes
            _below(len(self.traces), (row[2] for row in moment.held), "trace")
        for _, address, nbytes, _ in self.events:
            if not self.start <= address <= address + nbytes <= self.end:
                raise ValueError(f"an event at {address:#x} leaves the region")
        _below(len(self.traces), (event[3] for event in self.events if event[2]), "trace")
        if self.kv is not None:
            _below(self.kv.num_blocks, (b for s in self.steps for _, ids in s.blocks.values() for b in ids), "KV block")
        return self

    def frames_of(self, trace: int) -> list[Frame]:
        """The stack of a trace, innermost first; empty where stacks were not kept."""
        return [Frame(*self.frames[i]) for i in self.traces[trace].frames]


def _text(text: str) -> str:
    """As a file may have it: names of files need not be text."""
    return text.encode("utf-8", "backslashreplace").decode()[:_MAX_TEXT]


def _saved(moment: Moment) -> SavedMoment:
    rows = tuple((address, *row) for address, row in sorted(moment.rows.items()))
    return SavedMoment(time_ns=moment.time_ns, step=moment.step.number, held=rows, asked=moment.asked)


def _saved_grid(grid: KVGrid) -> SavedGrid:
    return SavedGrid(
        address=grid.address, num_blocks=grid.num_blocks, block_nbytes=grid.block_nbytes, block_size=grid.block_size
    )


def _deltas(steps: Iterable[Step]) -> Iterable[SavedStep]:
    """Block tables grow by a block now and then: only what is new in each step is written."""
    before: dict[str, Sequence[int]] = {}
    for step in steps:
        blocks: dict[str, tuple[int, tuple[int, ...]]] = {}
        for request_id, table in step.blocks.items():
            known = before.get(request_id, ())
            kept = len(known) if tuple(table[: len(known)]) == tuple(known) else 0
            blocks[request_id] = kept, tuple(table[kept:])
            before[request_id] = table
        yield SavedStep(number=step.number, phase=step.phase, time_ns=step.time_ns, blocks=blocks)


def _below(limit: int, numbers: Iterable[int], what: str) -> None:
    for number in numbers:
        if number >= limit:
            raise ValueError(f"there is no {what} {number}: expected less than {limit}")


def _bad(what: str, where: str, why: str) -> SnapshotError:
    return SnapshotError(what, where=where, why=why, hint="rtp generate --trace-memory FILE writes one")


def _reason(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    field = ".".join(map(str, first["loc"]))
    message = first["msg"].removeprefix("Value error, ")
    return f"{field}: {message}" if field else message
