"""The words of the suite: a case, the group it belongs to, the level that asks for it, and what became of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rtp_core.errors import ConfigError

if TYPE_CHECKING:
    from rtp_core.conformance.subject import Subject

GROUPS = (
    "packaging",
    "contract",
    "primitives",
    "composites",
    "honesty",
    "memory",
    "copies",
    "kv",
    "determinism",
    "end_to_end",
    "speed_floor",
)
LEVELS: Mapping[str, tuple[str, ...]] = {"primitive": GROUPS[:3], "full": GROUPS[:-1], "perf": GROUPS}

# What a group takes for granted. It is skipped where that has failed: a defect is told once, where it belongs.
RESTS_ON: Mapping[str, frozenset[str]] = {
    "packaging": frozenset(),
    "contract": frozenset(),
    "primitives": frozenset({"contract"}),
    "composites": frozenset({"contract", "primitives"}),
    "honesty": frozenset({"contract", "primitives", "composites"}),
    "memory": frozenset({"contract", "primitives", "composites"}),
    "copies": frozenset({"contract"}),
    "kv": frozenset({"contract", "primitives"}),
    "determinism": frozenset({"contract", "primitives", "composites"}),
    "end_to_end": frozenset({"contract", "primitives", "composites", "honesty", "memory", "copies", "kv"}),
    "speed_floor": frozenset({"contract", "primitives", "composites"}),
}


@dataclass(frozen=True, slots=True)
class Case:
    """One thing that a device must do. `run` raises CheckFailed, or whatever the device raised."""

    group: str
    name: str
    run: Callable[[Subject], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a case: passed without a message, failed with one, or skipped for the groups it rests on."""

    group: str
    name: str
    message: str = ""
    is_skipped: bool = False

    @property
    def has_passed(self) -> bool:
        return not self.message and not self.is_skipped


def groups_of(level: str) -> tuple[str, ...]:
    """The groups of a level. Raises ConfigError for an unknown one."""
    if level not in LEVELS:
        raise ConfigError(f"unknown level {level!r}", why=f"expected {', '.join(LEVELS)}")
    return LEVELS[level]
