"""Recording what a run does with memory, into a file that `rtp mem` reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from rtp_core.cli.console import check_writable, note
from rtp_core.cli.options import option

if TYPE_CHECKING:
    from rtp_core.engine.llm import LLM
    from rtp_core.memory.tracer import TraceLevel


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingOptions:
    """Whether memory is recorded, and how much of it."""

    trace_memory: Annotated[
        str | None, option("--trace-memory", "Record every allocation into this file, for `rtp mem`.")
    ] = None
    trace_stacks: Annotated[
        bool, option("--trace-stacks/--no-trace-stacks", "With --trace-memory: where in the code each comes from.")
    ] = True

    def check(self) -> None:
        """Raises OutputError for a file that cannot be written, before there is anything to write."""
        if self.trace_memory is not None:
            check_writable(self.trace_memory)

    @property
    def level(self) -> TraceLevel:
        if self.trace_memory is None:
            return "off"
        return "stacks" if self.trace_stacks else "tags"

    @contextmanager
    def recording(self, llm: LLM) -> Iterator[None]:
        """The file is written however the run ends."""
        try:
            yield
        finally:
            if self.trace_memory is not None:
                llm.memory.save(self.trace_memory)
                note(f"memory: rtp mem map {self.trace_memory}")
