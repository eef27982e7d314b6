"""The suite: all cases of a level for one device, and running them one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from rtp_core.conformance.case import RESTS_ON, Case, Outcome, groups_of
from rtp_core.conformance.expectation import reason
from rtp_core.conformance.groups import (
    composites,
    contract,
    copies,
    determinism,
    end_to_end,
    honesty,
    kv,
    memory,
    packaging,
    primitives,
    speed_floor,
)
from rtp_core.conformance.subject import Subject

CASES: Mapping[str, Callable[[Subject], Iterator[Case]]] = {
    "packaging": packaging.cases,
    "contract": contract.cases,
    "primitives": primitives.cases,
    "composites": composites.cases,
    "honesty": honesty.cases,
    "memory": memory.cases,
    "copies": copies.cases,
    "kv": kv.cases,
    "determinism": determinism.cases,
    "end_to_end": end_to_end.cases,
    "speed_floor": speed_floor.cases,
}


ALL = "all of it"  # the name under which a whole group is skipped


def cases(subject: Subject, group: str) -> Iterator[Case]:
    """What a group asks of the device."""
    yield from CASES[group](subject)


def run(
    subject: Subject, level: str, *, begin: Callable[[Case], None] = lambda case: None, past: Sequence[Outcome] = ()
) -> Iterator[Outcome]:
    """Run all groups of a level, in order. A group is skipped where one that it rests on has failed.

    `begin(case)` is told before each. `past`: outcomes of an earlier run, which goes on after them.
    Raises ConfigError for an unknown level.
    """
    failed = {outcome.group for outcome in past if not outcome.has_passed}
    done = {(outcome.group, outcome.name) for outcome in past}
    for group in groups_of(level):
        if RESTS_ON[group] & failed:
            if (group, ALL) not in done:
                yield Outcome(group, ALL, f"rests on {', '.join(sorted(RESTS_ON[group] & failed))}", True)
            continue
        for case in cases(subject, group):
            if (group, case.name) in done:
                continue
            begin(case)
            outcome = run_case(case, subject)
            if not outcome.has_passed:
                failed.add(group)
            yield outcome


def run_case(case: Case, subject: Subject) -> Outcome:
    """Whatever a device raises is what became of the case."""
    try:
        case.run(subject)
    except Exception as error:
        return Outcome(case.group, case.name, reason(error) or type(error).__name__)
    return Outcome(case.group, case.name)
