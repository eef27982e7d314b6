"""Saved plans: reading one, comparing two, and holding a plan to what was locked or required.

The file is what `rtp devices explain --json` prints.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, NoReturn

from rtp_core.device.choice import Rejection, check_op
from rtp_core.device.device import OPS
from rtp_core.device.plan import ANY, PHASES, Plan, PlanRow, Rows, decisions, plan_hash
from rtp_core.errors import ConfigError, PlanError

HOW_TO_WRITE = "rtp devices explain --json > plan.json"

_MAX_BYTES = 16 << 20
_MAX_ROWS = 1 << 14
_SOURCES = ("primitive", "default", "override", "borrowed")


@dataclass(frozen=True, slots=True)
class SavedPlan:
    """A plan as a file has it. `features`: the dynamic ones that it was resolved for."""

    path: Path
    rows: Rows
    features: frozenset[str]
    hash: str


@dataclass(frozen=True, slots=True)
class Change:
    """What became of one op. `fields` has (name, was, is) of what differs; rows that came or went have none."""

    op: str
    phase: str
    kind: str  # "added", "removed" or "changed"
    fields: tuple[tuple[str, str, str], ...] = ()

    @property
    def subject(self) -> str:
        return self.op if self.phase == ANY else f"{self.op} ({self.phase})"

    @property
    def what(self) -> str:
        return ", ".join([self.kind, *(f"{name} {was} -> {now}" for name, was, now in self.fields)])


def read_plan(path: str | PathLike[str]) -> SavedPlan:
    """Raises ConfigError for a file that is missing or not a plan."""
    path = Path(path)
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            "cannot read the plan", where=str(path), why=error.strerror or str(error), hint=HOW_TO_WRITE
        ) from error
    if len(data) > _MAX_BYTES:
        _fail(path, f"it is larger than {_MAX_BYTES} bytes")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        _fail(path, f"it is not JSON: {error}")
    if not isinstance(document, dict) or not isinstance(document.get("plan"), list):
        _fail(path, "expected an object with a list named plan")
    if document.get("schema", 1) != 1:
        _fail(path, f"expected schema 1, got {document['schema']!r:.40}")
    if len(document["plan"]) > _MAX_ROWS:
        _fail(path, f"it has more than {_MAX_ROWS} rows")
    rows = tuple(_row(path, i, row) for i, row in enumerate(document["plan"]))
    features = _strings(document.get("features", []))
    if features is None:
        _fail(path, "features: expected a list of strings")
    return SavedPlan(path, rows, frozenset(features), str(document.get("hash", "")))


def differences(old: Iterable[PlanRow], new: Iterable[PlanRow]) -> list[Change]:
    """What is served otherwise in `new`; reasons do not count. An op that changes alike in all phases is one."""
    was, now = decisions(old), decisions(new)
    changes: list[Change] = []
    for op in dict.fromkeys(op for op, _ in (*was, *now)):
        found = [c for phase in PHASES if (c := _change(op, phase, was.get((op, phase)), now.get((op, phase))))]
        if len(found) == len(PHASES) and len({(c.kind, c.fields) for c in found}) == 1:
            found = [Change(op, ANY, found[0].kind, found[0].fields)]
        changes += found
    return changes


def check_lock(plan: Plan, locked: SavedPlan) -> None:
    """Raises PlanError, naming the ops, where the plan serves anything otherwise than the locked one."""
    where = str(locked.path)
    if locked.features not in plan.sheets:
        raise PlanError(
            "the plan is not the locked one",
            where=where,
            why=f"it is for requests with {', '.join(sorted(locked.features - plan.dynamic))}, and here none has that",
        )
    rows = plan.sheets[locked.features]
    changes = differences(locked.rows, rows)
    if changes:
        ops = ", ".join(dict.fromkeys(change.op for change in changes))
        raise PlanError(
            f"the plan is not the locked one: {ops} changed",
            where=where,
            why=_grouped(changes, rows),
            hint=f"rtp devices explain --diff {where}",
        )
    if locked.hash != plan_hash(rows):
        raise PlanError(
            "the lock does not match itself",
            where=where,
            why=f"its rows are those of the plan, but its hash is {locked.hash or 'missing'}: it was edited",
            hint=HOW_TO_WRITE,
        )


def check_required(plan: Plan, ops: Sequence[str]) -> None:
    """Raises PlanError unless each op is served by the vendor's own code: a composite by an override.

    Raises ConfigError for a name that is no op.
    """
    for op in ops:
        check_op(op, "require")
    lacking = [row for row in plan.rows if row.op in ops and row.source in ("default", "borrowed")]
    if lacking:
        raise PlanError(
            f"no override serves {', '.join(dict.fromkeys(row.op for row in lacking))}",
            where=plan.where,
            why="; ".join(_why_lacking(row) for row in lacking),
            hint="rtp devices explain",
        )


def _why_lacking(row: PlanRow) -> str:
    op = row.op if row.phase == ANY else f"{row.op} ({row.phase})"
    if row.source == "borrowed":
        return f"{op} is borrowed"
    return f"{op}: " + (", ".join(f"{r.impl}: {r.reason}" for r in row.rejected) or "the device has no override of it")


def _grouped(changes: list[Change], rows: Rows) -> str:
    """Ops that changed alike together, and why candidates were rejected."""
    groups: dict[str, list[str]] = {}
    for change in changes:
        groups.setdefault(change.what + _reasons(change.op, rows), []).append(change.subject)
    return "; ".join(f"{', '.join(subjects)} {what}" for what, subjects in groups.items())


def _reasons(op: str, rows: Rows) -> str:
    """Why each candidate for an op was rejected, in brackets."""
    reasons = dict.fromkeys(f"{r.impl}: {r.reason}" for row in rows if row.op == op for r in row.rejected)
    return f" ({'; '.join(reasons)})" if reasons else ""


def _change(op: str, phase: str, was: Any, now: Any) -> Change | None:
    if was is None or now is None:
        return Change(op, phase, "added" if was is None else "removed") if was is not now else None
    fields = tuple((name, was[name] or "none", now[name] or "none") for name in now if was[name] != now[name])
    return Change(op, phase, "changed", fields) if fields else None


def _row(path: Path, index: int, value: Any) -> PlanRow:
    """A row of the file with its types checked; ops need not be ones that this core knows."""
    names = ("op", "phase", "dtype", "scheme", "impl", "source")
    if not isinstance(value, dict) or not all(isinstance(value.get(name), str) for name in names):
        _fail(path, f"row {index}: expected an object with strings {', '.join(names)}")
    if value["phase"] not in (ANY, *PHASES) or value["source"] not in _SOURCES:
        _fail(path, f"row {index}: phase {value['phase']!r:.40}, source {value['source']!r:.40}")
    features, rejected = _strings(value.get("features")), value.get("rejected", [])
    if features is None or not isinstance(rejected, list):
        _fail(path, f"row {index}: expected lists named features and rejected")
    known = OPS.get(value["op"])
    return PlanRow(
        op=value["op"],
        level=-1 if known is None else known.level,
        phase=value["phase"],
        dtype=value["dtype"],
        scheme=value["scheme"],
        features=tuple(sorted(features)),
        impl=value["impl"],
        source=value["source"],
        rejected=tuple(Rejection(str(r.get("impl")), str(r.get("reason"))) for r in rejected if isinstance(r, dict)),
    )


def _strings(value: Any) -> list[str] | None:
    return value if isinstance(value, list) and all(isinstance(item, str) for item in value) else None


def _fail(path: Path, why: str) -> NoReturn:
    raise ConfigError("not a saved plan", where=str(path), why=why, hint=HOW_TO_WRITE)
