"""The report of the conformance suite that a vendor ships, read without importing anything of the plugin.

It lies in the wheel as `<package>/conformance.json` beside the plugin's module. It is the vendor's own word, and
stale once the distribution or the plugin API is another one than it was made for.
"""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from typing import Any

from rtp_core.device.manifest import PLUGIN_API

SCHEMA = 1
NAME = "conformance.json"
MAX_BYTES = 4 << 20
_LEVELS = ("primitive", "full", "perf")

# Files that installers write: they are not part of what was built.
_INSTALLERS = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"}


def dist_hash(dist: str) -> str | None:
    """Sixteen hex digits over what a distribution's RECORD says of its files, its report left out.

    None where there is no such thing: an editable install has its files elsewhere.
    """
    try:
        found = distribution(dist)
    except PackageNotFoundError:
        return None
    return _hash(found)


def shipped_report(dist: str, value: str) -> dict[str, Any] | None:
    """The report in a distribution whose entry point is `value`: level, counts, and whether it is stale.

    None where it ships none. Never raises: what is wrong with a report is its `problem`.
    """
    package = value.partition(":")[0].strip().partition(".")[0]
    try:
        found = distribution(dist)
        paths = [path for path in found.files or () if path.parts == (package, NAME)]
        if not paths:
            return None
        with open(str(found.locate_file(paths[0])), "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except PackageNotFoundError:
        return None
    except OSError as error:
        return {"problem": f"cannot be read: {error.strerror or error}", "stale": True}
    return _summary(data, found)


def as_text(report: dict[str, Any] | None) -> str:
    """For a column: `full 412/412, self-reported`."""
    if report is None:
        return "-"
    if "problem" in report:
        return "unreadable"
    counts = f"{report['level']} {report['passed']}/{report['passed'] + report['failed']}"
    return f"{counts}, {'stale' if report['stale'] else 'self-reported'}"


def _hash(found: Distribution) -> str | None:
    direct = found.read_text("direct_url.json")
    if direct is not None and '"editable": true' in " ".join(direct.split()):
        return None
    lines = sorted(
        f"{path.as_posix()} {path.hash.value}"
        for path in found.files or ()
        if path.hash and path.name not in _INSTALLERS | {NAME} and ".." not in path.parts
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] if lines else None


def _summary(data: bytes, found: Distribution) -> dict[str, Any]:
    problem = f"larger than {MAX_BYTES} bytes" if len(data) > MAX_BYTES else ""
    report: Any = None
    try:
        report = None if problem else json.loads(data)
    except (ValueError, RecursionError) as error:
        problem = f"not JSON: {error}"
    if not problem and not _is_report(report):
        problem = "not a report of the conformance suite"
    if problem:
        return {"problem": problem, "stale": True}
    own = _hash(found)
    is_same = own is not None and report.get("dist_hash") == own and report.get("version") == found.version
    stale = not is_same or report.get("api") != list(PLUGIN_API)
    names = ("level", "passed", "failed", "suite", "api", "version", "dist_hash", "device", "borrowed")
    return {**{name: report.get(name) for name in names}, "stale": stale, "self_reported": True}


def _is_report(report: Any) -> bool:
    return (
        isinstance(report, dict)
        and report.get("schema") == SCHEMA
        and report.get("level") in _LEVELS
        and all(type(report.get(name)) is int and 0 <= report[name] < 1 << 31 for name in ("passed", "failed"))
    )
