"""Every known-bad device is caught by the group whose business its defect is, and by no other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rtp_core.conformance.case import Outcome
from rtp_core.conformance.subject import Subject
from rtp_core.conformance.suite import run
from rtp_core.device import services
from rtp_core.plugin import Device

from .bad_devices import BAD, Bad

# What the defect costs, or how it shows: a part of the message of the first case that fails.
SHOWS = {
    "Mutator": "other code in rtp_core.device.services:Event.wait",
    "Typo": "bad.linaer",
    "BareBool": "expected YES or No(reason) from bad.gated, got True",
    "Fickle": "expected the same answer twice from bad.gated",
    "TooFew": "expected 65 or more from capture_size(65), got 64",
    "OtherRehearsal": "expected capture_size(1) to be 1 in the rehearsal, got 2",
    "WrongGemm": "against the reference: expected",
    "StrideIgnorer": "got nan",
    "Scribbler": "bytes outside of a buffer",
    "NanMaker": "got nan",
    "InputWriter": "operand 0 of shape",
    "RowsCounter": "ZeroDivisionError",
    "Raiser": "ValueError: no kernel for this",
    "FeatureIgnorer": "result 0 of linear",
    "Liar": "result 0 of gated_activation",
    "Leaker": "bytes in use after cast",
    "OomSwallower": "expected OutOfMemoryError",
    "NeverRecovers": "result 0 of gemm",
    "NegativeBeside": "expected bytes, 0 or more, that libbad holds",
    "NamelessBeside": "expected the name of a holder, got ' '",
    "BadCopy": "copied into",
    "EarlyEvent": "a non-blocking copy",
    "KvOffByOne": "BKD",
    "NonDeterministic": "expected the same bits from two calls of",
    "StalePlan": "after prompt",
    "SlowOverride": "expected bad.gated to take at most 1.2 times",
}


@pytest.fixture(autouse=True)
def _core_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services.Event, "wait", services.Event.wait)


Failures = Callable[..., list[Outcome]]


@pytest.fixture(scope="module")
def failures() -> Failures:
    """failures(cls, level): what the suite finds. The reference's results are the same for all devices."""
    oracles: dict[Any, Any] = {}

    def check(cls: type[Device], level: str = "full") -> list[Outcome]:
        subject = Subject.of_class(cls)
        subject.oracles = oracles
        outcomes = list(run(subject, level))
        subject.close()
        return [outcome for outcome in outcomes if not outcome.has_passed and not outcome.is_skipped]

    return check


@pytest.mark.parametrize("name", BAD)
def test_a_defect_is_found_by_its_group_alone(name: str, failures: Failures) -> None:
    group, _, cls = name.partition(": ")
    found = failures(BAD[name], "perf" if group == "speed_floor" else "full")
    assert {outcome.group for outcome in found} == {group}, found[:3]
    assert any(SHOWS[cls] in f"{outcome.name} {outcome.message}" for outcome in found), found[:3]


def test_the_device_that_they_derive_from_is_right(failures: Failures) -> None:
    assert failures(Bad) == []


def test_there_are_more_than_a_dozen() -> None:
    assert len(BAD) >= 20
    assert {name.partition(": ")[2] for name in BAD} == set(SHOWS)
