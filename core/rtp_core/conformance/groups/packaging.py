"""packaging: the installed plugin is light, says the same thing twice, and works in a fresh process."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution

from rtp_core.conformance.case import Case
from rtp_core.conformance.expectation import expect
from rtp_core.conformance.subject import Subject

GROUP = "packaging"
MAX_CPU_S = 0.150  # to import the plugin's module and ask for its manifest


def cases(subject: Subject) -> Iterator[Case]:
    if subject.plugin is None:
        return
    for check in (_opens, _light, _loads_nothing_native, _idempotent, _same_manifest, _metadata, _no_cap):
        yield Case(GROUP, check.__doc__ or "", check)


def _opens(subject: Subject) -> None:
    """a fresh process loads and opens it"""
    expect(not subject.observation.error, subject.observation.error)


def _light(subject: Subject) -> None:
    """its module loads in 150 ms of CPU"""
    cpu_s = subject.observation.cpu_s
    expect(cpu_s <= MAX_CPU_S, f"expected at most {MAX_CPU_S * 1000:.0f} ms of CPU to load it, got {cpu_s * 1000:.0f}")


def _loads_nothing_native(subject: Subject) -> None:
    """nothing native loads before the probe"""
    native = subject.observation.native
    expect(not native, f"expected no extension modules before the probe, got {', '.join(native[:8])}")


def _idempotent(subject: Subject) -> None:
    """loading it twice is loading it once"""
    expect(subject.observation.is_idempotent, "expected the same module the second time, got another one")


def _same_manifest(subject: Subject) -> None:
    """its manifest is the same twice"""
    expect(subject.observation.is_same_manifest, "expected equal manifests from two calls, got two that differ")


def _metadata(subject: Subject) -> None:
    """its distribution has a name, a version and requires rtp-core"""
    name, requires = _requirements(subject)
    is_there = name == "rtp-core" or any(_project(line) == "rtp-core" for line in requires)
    expect(is_there, f"expected rtp-core among the requirements of {name}, got {', '.join(requires) or 'none'}")


def _no_cap(subject: Subject) -> None:
    """its requirements do not cap rtp-core: the plugin API says what fits"""
    name, requires = _requirements(subject)
    caps = [line for line in requires if _project(line) == "rtp-core" and re.search(r"<|==|~=", line.split(";")[0])]
    expect(not caps, f"expected no upper bound in the requirements of {name}, got {', '.join(caps)}")


def _requirements(subject: Subject) -> tuple[str, list[str]]:
    assert subject.plugin is not None
    try:
        found = distribution(subject.plugin.dist)
    except PackageNotFoundError:
        found = None
    expect(found is not None, f"expected a distribution {subject.plugin.dist}, got none")
    assert found is not None
    version = found.metadata["Version"]
    expect(bool(version), f"expected {subject.plugin.dist} to have a version, got {version!r}")
    return subject.plugin.dist, found.requires or []


def _project(requirement: str) -> str:
    """The normalized name of what a requirement names."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^A-Za-z0-9._-]", requirement.strip(), maxsplit=1)[0]).lower()
