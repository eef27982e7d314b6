"""Rounds of engines in turn."""

from __future__ import annotations

from comparison.process import EngineError
from comparison.turns import Speeds, in_turn


def test_a_round_has_each_engine_once_and_who_failed_is_not_asked_again() -> None:
    asked: list[str] = []

    def answers(label: str, fails_at: int | None = None) -> Speeds:
        asked.append(label)
        if asked.count(label) == fails_at:
            raise EngineError(f"{label} fell")
        return {"cell": float(asked.count(label))}

    said: list[str] = []
    runs = {"a": lambda: answers("a"), "b": lambda: answers("b", fails_at=2), "c": lambda: answers("c")}
    rounds, errors = in_turn(runs, 3, said.append)
    assert asked == ["a", "b", "c", "a", "b", "c", "a", "c"]
    assert rounds == {"a": [{"cell": n} for n in (1, 2, 3)], "b": [{"cell": 1}], "c": [{"cell": n} for n in (1, 2, 3)]}
    assert errors == {"b": "b fell"}
    assert said[0] == "round 1 of 3: a" and "  left out: b fell" in said
