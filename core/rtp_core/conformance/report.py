"""The report of a check: JSON that a vendor can ship in the wheel, as `conformance.json` beside the plugin's module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rtp_core import __version__
from rtp_core.conformance.case import GROUPS, Outcome
from rtp_core.conformance.isolated import Run
from rtp_core.device.conformance_report import SCHEMA, dist_hash
from rtp_core.device.loader import Plugin
from rtp_core.device.manifest import PLUGIN_API, DeviceInfo


def report(plugin: Plugin, info: DeviceInfo, level: str, run: Run) -> dict[str, Any]:
    """What `--report` writes and `--json` prints."""
    return {
        "schema": SCHEMA,
        "suite": __version__,
        "api": list(PLUGIN_API),
        "kind": plugin.kind,
        "dist": plugin.dist,
        "version": plugin.version,
        "dist_hash": dist_hash(plugin.dist),
        "device": info.name,
        "level": level,
        "passed": sum(outcome.has_passed for outcome in run.outcomes),
        "failed": sum(bool(outcome.message) and not outcome.is_skipped for outcome in run.outcomes),
        "borrowed": run.borrowed,
        "groups": _groups(run.outcomes),
        "failures": [
            {"group": o.group, "case": o.name, "message": o.message}
            for o in run.outcomes
            if not o.has_passed and not o.is_skipped
        ],
    }


def _groups(outcomes: Sequence[Outcome]) -> dict[str, dict[str, Any]]:
    """Passed and failed cases of each group; `skipped` says why a whole one did not run."""
    groups: dict[str, dict[str, Any]] = {}
    for name in (name for name in GROUPS if any(outcome.group == name for outcome in outcomes)):
        own = [outcome for outcome in outcomes if outcome.group == name]
        skipped = [outcome.message for outcome in own if outcome.is_skipped]
        passed = sum(outcome.has_passed for outcome in own)
        groups[name] = {"passed": passed, "failed": len(own) - passed - len(skipped)}
        if skipped:
            groups[name]["skipped"] = skipped[0]
    return groups
