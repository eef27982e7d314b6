"""`rtp devices check`: the conformance suite on one device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rtp_core.cli.console import OutputError, note, plain, write, write_json
from rtp_core.cli.exit_code import ExitCode
from rtp_core.cli.lines import as_columns
from rtp_core.cli.options import Debug, Json, option

if TYPE_CHECKING:
    from rtp_core.conformance.case import Outcome

MAX_SHOWN = 30  # failures; the report has all of them


def check(
    kind: Annotated[str, typer.Argument(help="A kind, kind:index or kind@dist.", show_default=False)],
    level: Annotated[str, option("--level", "primitive, full, or perf: full and the speed floor.")] = "full",
    report: Annotated[Path | None, option("--report", "Write the report there, to ship as conformance.json.")] = None,
    replay: Annotated[
        str | None, option("--replay", "Also run the ops of a model, or of a saved plan, in their own sizes.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Prove a device right: every op against its definition, the contract, memory, tokens. Ends with 1 on a failure."""
    from rtp_core.conformance.case import groups_of
    from rtp_core.conformance.isolated import run_isolated
    from rtp_core.conformance.report import report as report_of
    from rtp_core.conformance.subject import Subject

    groups_of(level)
    subject = Subject.named(kind, replay)
    assert subject.plugin is not None
    document = report_of(
        subject.plugin, subject.info, level, run_isolated(kind, level, replay, progress=_Progress().tell)
    )
    if report is not None:
        _save(report, document)
    if as_json:
        write_json(document)
    else:
        write(_as_text(document))
    if document["failed"]:
        raise typer.Exit(ExitCode.FAILED)


class _Progress:
    """A line for people whenever another group begins."""

    def __init__(self) -> None:
        self._group = ""

    def tell(self, outcome: Outcome) -> None:
        if outcome.group != self._group:
            self._group = outcome.group
            note(f"checking {outcome.group}")


def _save(path: Path, document: dict[str, Any]) -> None:
    try:
        path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError("cannot write the report", where=str(path), why=error.strerror or str(error)) from error


def _as_text(document: dict[str, Any]) -> str:
    rows = [["GROUP", "PASSED", "FAILED", ""]]
    rows += [[name, str(g["passed"]), str(g["failed"]), g.get("skipped", "")] for name, g in document["groups"].items()]
    text = as_columns(rows) + "\n"
    for failure in document["failures"][:MAX_SHOWN]:
        text += f"{failure['group']}: {plain(failure['case'])}\n  {plain(failure['message'])}\n"
    if len(document["failures"]) > MAX_SHOWN:
        text += f"... and {len(document['failures']) - MAX_SHOWN} more: --report FILE has them all\n"
    total = document["passed"] + document["failed"]
    text += f"{document['kind']}: {document['level']} {document['passed']}/{total}"
    return text + (f", borrowed: {len(document['borrowed'])}\n" if document["borrowed"] else "\n")
