"""The suite for pytest: `--rtp-device KIND` turns every case into a test. Without it nothing of it is imported.

A vendor's whole test file:

    from rtp_core.conformance.test_device import *

with `rtp_device = "acme"` in pytest's settings, or `--rtp-device acme` on its command line.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from rtp_core.conformance.case import Case
    from rtp_core.conformance.subject import Subject

_OPTIONS = {
    "rtp_device": "the device that the conformance suite checks: kind, kind:index or kind@dist",
    "rtp_level": "the level of the conformance suite: primitive, full (default) or perf",
    "rtp_replay": "a model or a saved plan, whose ops the conformance suite runs in their own sizes",
}
_SUBJECT = pytest.StashKey["Subject"]()
_FAILED = pytest.StashKey[set[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("rtp", "conformance of rtp devices")
    for name, help in _OPTIONS.items():
        group.addoption(f"--{name.replace('_', '-')}", help=help, default=None)
        parser.addini(name, help, default="")


def _option(config: pytest.Config, name: str) -> str | None:
    return config.getoption(name) or config.getini(name) or None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "rtp_case" not in metafunc.fixturenames:
        return
    device = _option(metafunc.config, "rtp_device")
    if device is None:
        skipped = pytest.param(None, marks=pytest.mark.skip(reason="give --rtp-device KIND"), id="no device")
        metafunc.parametrize("rtp_case", [skipped])
        return
    cases = list(_cases(metafunc.config, device))
    metafunc.parametrize("rtp_case", cases, ids=[f"{case.group}: {case.name}" for case in cases])


def _cases(config: pytest.Config, device: str) -> Iterator[Case]:
    from rtp_core.conformance.case import groups_of
    from rtp_core.conformance.subject import Subject
    from rtp_core.conformance.suite import cases

    groups = groups_of(_option(config, "rtp_level") or "full")
    if _SUBJECT not in config.stash:
        config.stash[_SUBJECT] = Subject.named(device, _option(config, "rtp_replay"))
        config.stash[_FAILED] = set()
    for group in groups:
        yield from cases(config.stash[_SUBJECT], group)


@pytest.fixture
def rtp_subject(pytestconfig: pytest.Config) -> Subject:
    """The device under test."""
    return pytestconfig.stash[_SUBJECT]


@pytest.fixture
def rtp_failed_groups(pytestconfig: pytest.Config) -> set[str]:
    """The groups in which a case has failed so far: cases that rest on them are skipped."""
    return pytestconfig.stash[_FAILED]


def pytest_unconfigure(config: pytest.Config) -> None:
    subject: Any = config.stash.get(_SUBJECT, None)
    if subject is not None:
        subject.close()
