"""`rtp devices explain`: which implementation serves each op, and why not the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rtp_core.checkpoint import hub
from rtp_core.cli.console import note, plain, write, write_json, write_styled
from rtp_core.cli.exit_code import ExitCode
from rtp_core.cli.options import Debug, Json, comma_separated, option, with_options
from rtp_core.errors import ConfigError

if TYPE_CHECKING:
    from rich.text import Text
    from rich.tree import Tree

    from rtp_core.device.plan import PlanRow, Rows
    from rtp_core.device.plan_lock import Change
    from rtp_core.engine.engine_config import EngineConfig
    from rtp_core.engine.explaining import ExplainedPlan

_COLOURS = {"override": "bold green", "default": "cyan", "primitive": "blue", "borrowed": "bold yellow"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainOptions:
    """The model, the device, and what may change the plan of the first on the second."""

    model: Annotated[str, option("--model", "A folder, a GGUF file, a name of `rtp models ls`, or repo/id.")] = (
        hub.DEFAULT_MODEL
    )
    device: Annotated[str, option("--device", "auto, kind, kind:index or kind@dist.")] = "auto"
    dtype: Annotated[str, option("--dtype", "auto, float32, bfloat16 or float16.")] = "auto"
    quantization: Annotated[str | None, option("--quantization", "Quantize float weights at load, as q8_0.")] = None
    features: Annotated[str, option("--features", "What requests ask of the ops, separated by commas.")] = ""
    disable_impl: Annotated[
        list[str], option("--disable-impl", "An implementation to leave out of the plan. Repeatable.")
    ] = field(default_factory=list)
    prefer: Annotated[
        list[str], option("--prefer", "OP=IMPL: the implementation of an op to take first. Repeatable.")
    ] = field(default_factory=list)
    allow_device_fallback: Annotated[
        bool, option("--allow-device-fallback", "With --device auto: go on past a broken plugin.")
    ] = False

    def config(self) -> EngineConfig:
        """Raises ConfigError for values no engine can have."""
        from rtp_core.engine.engine_config import EngineConfig

        options = {key: value for key, value in asdict(self).items() if key != "model"}
        names = {"disable_impl": tuple(self.disable_impl), "prefer": tuple(self.prefer)}
        return EngineConfig(**options | names | {"features": comma_separated(self.features)})


@with_options
def explain(
    *,
    new: Annotated[
        str | None, typer.Argument(metavar="[NEW.json]", help="With --diff: the other plan.", show_default=False)
    ] = None,
    options: ExplainOptions,
    diff: Annotated[
        str | None, option("--diff", "A saved plan to compare with NEW.json, or with the plan of now.", metavar="OLD")
    ] = None,
    assume_manifest: Annotated[
        bool, option("--assume-manifest", "Ask the plugin's manifest alone, as if its hardware were absent.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """The plan of a model on a device, without loading the model. With --diff, ends with 1 if the plans differ."""
    if new is not None and diff is None:
        raise ConfigError(f"unexpected argument {new!r}", why="a second plan is for --diff OLD.json NEW.json")
    if diff is not None:
        _compare(diff, new, options, assume_manifest, as_json)
        return
    plan = _explained(options, assume_manifest)
    if as_json:
        write_json(document(plan, options.model))
    else:
        write_styled(_tree(plan, options.model))


def document(plan: ExplainedPlan, model: str) -> dict[str, Any]:
    """A plan as JSON, which --plan-lock and --diff read."""
    from rtp_core.device.plan import as_json

    return {
        "plan": as_json(plan.rows),
        "hash": plan.hash,
        "model": model,
        "device": plan.device,
        "dtype": plan.dtype,
        "features": list(plan.features),
        "assumed": plan.assumed or None,
    }


def _explained(options: ExplainOptions, assume_manifest: bool) -> ExplainedPlan:
    from rtp_core.cli.progress import downloading

    config = options.config()
    with downloading(options.model) as progress:
        path = hub.resolve(options.model, progress)
    from rtp_core.engine.explaining import explain_plan

    plan = explain_plan(path, config, assume_manifest=assume_manifest, info=note)
    if plan.assumed:
        note(f"{plan.device}: from its manifest alone ({plan.assumed}); conditional rows wait for their predicates")
        if options.dtype == "auto":
            note(f"{plan.device}: dtype {plan.dtype} is assumed; --dtype says otherwise")
    return plan


# -- the tree ------------------------------------------------------------------------------------------------------


def _tree(plan: ExplainedPlan, model: str) -> Tree:
    from rich.text import Text
    from rich.tree import Tree

    title = Text().append(plain(model), "bold").append(f" on {plain(plan.device)}, {plan.dtype}")
    if plan.features:
        title.append(f", requests with {', '.join(map(plain, plan.features))}")
    tree = Tree(title.append(f", plan {plan.hash}", "dim"), guide_style="dim")
    for level, rows in groupby(sorted(plan.rows, key=lambda row: -row.level), key=lambda row: row.level):
        branch = tree.add(Text(f"level {level}" if level else "primitives", "bold"))
        for row in rows:
            node = branch.add(_row_text(row))
            for line in _remarks(row):
                node.add(Text(line, "dim"))
    return tree


def _row_text(row: PlanRow) -> Text:
    from rich.text import Text

    text = Text(plain(row.op))
    if row.phase != "any":
        text.append(f" in {row.phase}", "italic")
    text.append("  ").append(plain(row.impl), _COLOURS[row.source]).append(f"  {row.source}", "dim")
    for condition, word in (
        (row.conditional, "if its predicate agrees"),
        (row.preferred, "preferred"),
        (row.scheme != "none", row.scheme),
        (row.features, "with " + ", ".join(row.features)),
    ):
        if condition:
            text.append(f", {plain(word)}", "dim")
    return text


def _remarks(row: PlanRow) -> list[str]:
    lines = [f"not {plain(rejection.impl)}: {plain(rejection.reason)}" for rejection in row.rejected]
    if row.source == "override" and row.shadowed_by:
        lines.append(f"unused inside {', '.join(map(plain, row.shadowed_by))}")
    return lines


# -- comparing -----------------------------------------------------------------------------------------------------


def _compare(old: str, new: str | None, options: ExplainOptions, assume_manifest: bool, as_json: bool) -> None:
    from rtp_core.device.plan_lock import differences, read_plan

    before = read_plan(old)
    after: Rows = _explained(options, assume_manifest).rows if new is None else read_plan(new).rows
    changes = differences(before.rows, after)
    if as_json:
        write_json(_changes(changes))
    else:
        write(
            "".join(f"{_SIGNS[change.kind]} {plain(f'{change.subject} {change.what}')}\n" for change in changes)
            or "the plans are equal\n"
        )
    if changes:
        raise typer.Exit(ExitCode.FAILED)


_SIGNS: Mapping[str, str] = {"added": "+", "removed": "-", "changed": "~"}


def _changes(changes: list[Change]) -> dict[str, Any]:
    by_kind: dict[str, Any] = {"equal": not changes, "added": [], "removed": [], "changed": []}
    for change in changes:
        found: dict[str, Any] = {"op": change.op, "phase": change.phase}
        for name, was, now in change.fields:
            found[name] = {"old": was, "new": now}
        by_kind[change.kind].append(found)
    return by_kind
