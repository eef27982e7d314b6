"""LLM.memory: what a running engine's memory looks like, now and at its peak.

Reports are imported when one is asked for: a start does not wait for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING

from rtp_core.device.device import Device
from rtp_core.engine.memory_need import MemoryNeed
from rtp_core.memory.arena import ArenaStats
from rtp_core.memory.tracer import When

if TYPE_CHECKING:
    from rtp_core.memory.report.memory_map import MemoryMap
    from rtp_core.memory.snapshot import Snapshot


class MemoryView:
    """`need` is what the start was planned with: weights, KV, work space, recorded decode steps.

    kv_tokens: what the KV cache holds.
    """

    def __init__(self, device: Device, need: MemoryNeed, kv_tokens: int, model: str) -> None:
        self._device, self._model = device, model
        self.need, self.kv_tokens = need, kv_tokens

    @property
    def stats(self) -> ArenaStats:
        """In bytes, now."""
        return self._device.arena.stats()

    @property
    def beside(self) -> Mapping[str, int]:
        """In bytes, now: what the device's libraries hold beside the arena, by what holds it."""
        return self._device.memory_beside()

    def table(self, at: When = "now") -> str:
        """RTP-LLM's table. Raises ConfigError for "oom" where memory never ran out."""
        return self.map(at).table

    def map(self, at: When = "peak") -> MemoryMap:
        """Every range, totals by tag, the largest holes. Raises as `table` does."""
        from rtp_core.memory.report.memory_map import MemoryMap

        return MemoryMap.of(self.snapshot(), at)

    def text(self, at: When = "peak", width: int = 100) -> str:
        """What `rtp mem map` prints. Raises as `table` does."""
        from rtp_core.memory.report.as_text import as_text

        return as_text(self.map(at), width)

    def snapshot(self) -> Snapshot:
        """All that is known, as a value: for reports, and to be compared or saved."""
        from rtp_core.memory.snapshot import Snapshot

        return Snapshot.of(self._device.arena, model=self._model, beside=self.beside)

    def save(self, path: str | PathLike[str]) -> None:
        """Write what `rtp mem` reads. Raises CacheError where it cannot be written."""
        self.snapshot().save(path)
