"""Rounds of all engines in turn, so that what drifts on a machine drifts for all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from comparison.process import EngineError

Speeds = dict[str, float]  # by cell


def in_turn(
    runs: Mapping[str, Callable[[], Speeds]], rounds: int, say: Callable[[str], None]
) -> tuple[dict[str, list[Speeds]], dict[str, str]]:
    """By label, what each round measured; and of those that failed, which are not asked again, the error."""
    measured: dict[str, list[Speeds]] = {label: [] for label in runs}
    errors: dict[str, str] = {}
    for number in range(1, rounds + 1):
        for label in [label for label in runs if label not in errors]:
            say(f"round {number} of {rounds}: {label}")
            try:
                measured[label].append(runs[label]())
            except EngineError as error:
                errors[label] = str(error)
                say(f"  left out: {error}")
    return measured, errors
