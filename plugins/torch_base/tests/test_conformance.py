"""The conformance suite at `full` on torch's CPU, where every missing wait is a failure."""

from __future__ import annotations

import pytest
from lazy_device import LazyDevice, LazyGraphsDevice

from rtp_core.conformance.case import LEVELS
from rtp_core.conformance.subject import Subject
from rtp_core.conformance.suite import cases, run, run_case


def test_the_device_passes_at_full() -> None:
    outcomes = list(run(Subject.of_class(LazyDevice), "full"))
    assert [outcome for outcome in outcomes if not outcome.has_passed] == []
    # No plugin provides the class, and it has no overrides.
    assert {outcome.group for outcome in outcomes} == set(LEVELS["full"]) - {"packaging", "honesty"}
    assert len(outcomes) > 2000


@pytest.mark.parametrize("group", ["contract", "composites"])
def test_an_override_of_the_tests_own_does_what_its_default_does(group: str) -> None:
    subject = Subject.of_class(LazyGraphsDevice)
    found = [case for case in cases(subject, group) if group == "contract" or "decoder_self_attention" in case.name]
    assert found
    assert [outcome.message for outcome in (run_case(case, subject) for case in found) if outcome.message] == []
