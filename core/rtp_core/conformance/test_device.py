"""The cases of the suite as tests of one device: see `pytest_plugin`."""

from __future__ import annotations

import pytest

from rtp_core.conformance.case import RESTS_ON, Case
from rtp_core.conformance.subject import Subject
from rtp_core.conformance.suite import run_case

__all__ = ["test_device"]


def test_device(rtp_case: Case, rtp_subject: Subject, rtp_failed_groups: set[str]) -> None:
    """One case. It is skipped where a group that its own rests on has failed."""
    foundations = RESTS_ON[rtp_case.group] & rtp_failed_groups
    if foundations:
        pytest.skip(f"rests on {', '.join(sorted(foundations))}")
    outcome = run_case(rtp_case, rtp_subject)
    if not outcome.has_passed:
        rtp_failed_groups.add(rtp_case.group)
        pytest.fail(outcome.message, pytrace=False)
