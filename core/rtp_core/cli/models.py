"""`rtp models`: what is in the cache, fetching more, and what a model's files say."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rtp_core.checkpoint import hub
from rtp_core.checkpoint.cache import CachedModel
from rtp_core.cli.console import note, plain, write, write_json
from rtp_core.cli.group import command_group
from rtp_core.cli.lines import as_columns, as_lines
from rtp_core.cli.options import Debug, Json, LimitOptions, option, with_options
from rtp_core.errors import ModelError

if TYPE_CHECKING:
    from rtp_core.checkpoint.checkpoint import Checkpoint

_MAX_FRONT_MATTER = 1 << 16  # bytes of a model card that are read for its licence

app = command_group("Models in the cache.")


@app.command("ls")
def list_models(as_json: Json = False, debug: Debug = False) -> None:
    """Models in the cache, and those that rtp knows by name even before they are there."""
    rows = [_row(model) for model in hub.cached_models()]
    rows += [
        {
            "name": name,
            "format": "safetensors" if wheel.is_folder else "gguf",
            "size_bytes": wheel.unpacked_nbytes,
            "path": None,
            "source": "wheel",
        }
        for name, wheel in hub.WHEELS.items()
        if not wheel.is_cached()
    ]
    for row in rows:
        row |= {"is_cached": row["path"] is not None, "is_default": row["name"] == hub.DEFAULT_MODEL}
    if as_json:
        write_json({"models": rows})
    else:
        _write_rows(rows)


@app.command("pull")
def pull(
    name: Annotated[str, typer.Argument(help="A name of `rtp models ls`, or repo/id.", show_default=False)],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Download a model unless the cache has it, and print its path."""
    from rtp_core.cli.progress import downloading

    with downloading(name) as progress:
        path = hub.pull(name, progress)
    model = next(model for model in hub.cached_models() if model.path == path)
    if as_json:
        write_json(_row(model))
    else:
        write(f"{path}\n")


@app.command("show")
@with_options
def show(
    *,
    name: Annotated[str, typer.Argument(help="A name of `rtp models ls`, or a path.", show_default=False)],
    device: Annotated[str | None, option("--device", "Say what it would take of this device's memory.")] = None,
    limits: LimitOptions,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """What a model's files say about it and, with --device, what it would take of memory. Nothing is downloaded."""
    from rtp_core.checkpoint.opening import open_checkpoint

    path = Path(name).expanduser()
    if not path.exists():
        found = hub.find(name)
        if found is None:
            is_known = name in hub.WHEELS or "/" in name
            hint = f"rtp models pull {name}" if is_known else "rtp models ls"
            raise ModelError(f"no model {name!r}", why="not a path, and not in the cache", hint=hint)
        path = found
    checkpoint = open_checkpoint(path)
    facts = {"name": name, **_facts(checkpoint)}
    if device is not None:
        facts["memory"] = _memory(checkpoint, device, limits)
    if as_json:
        write_json(facts)
    else:
        write("\n".join(as_lines(facts)) + "\n")


def _row(model: CachedModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "format": model.format,
        "size_bytes": model.nbytes,
        "path": str(model.path),
        "source": model.source,
    }


def _write_rows(rows: list[dict[str, Any]]) -> None:
    cells = [["NAME", "FORMAT", "SIZE", "PATH"]]
    for row in rows:
        name = row["name"] + (" (default)" if row["is_default"] else "")
        path = row["path"] or "not downloaded yet"
        cells.append([plain(name), row["format"], f"{row['size_bytes'] / 1e6:.1f} MB", plain(path)])
    write(as_columns(cells))


def _facts(checkpoint: Checkpoint) -> dict[str, Any]:
    num_parameters, nbytes = Counter[str](), Counter[str]()
    for name, tensor in checkpoint.header.items():
        scheme = getattr(tensor, "scheme", None)
        stored = tensor.dtype.name if scheme is None else scheme.name
        size = 1
        for extent in tensor.shape:
            size *= extent
        num_parameters[stored] += size
        nbytes[stored] += checkpoint.stored_bytes[name]
    return {
        "path": str(checkpoint.path),
        "format": checkpoint.format,
        "model_type": checkpoint.config.model_type,
        "num_parameters": num_parameters.total(),
        "num_tensors": len(checkpoint.tensors),
        "size_bytes": checkpoint.nbytes,
        "tensor_types": {
            name: {"num_parameters": num_parameters[name], "size_bytes": nbytes[name]} for name in sorted(nbytes)
        },
        "max_position_embeddings": checkpoint.config.max_position_embeddings,
        "has_chat_template": checkpoint.chat_template is not None,
        "generation_config": dict(checkpoint.generation_config),
        "license": _license(checkpoint),
        "config": checkpoint.config.model_dump(mode="json"),
    }


def _memory(checkpoint: Checkpoint, device: str, limits: LimitOptions) -> dict[str, Any]:
    """What a start with these limits would take, in bytes, and how much context would fit."""
    from rtp_core.engine.forecast import forecast

    found = forecast(checkpoint, limits.config() | {"device": device}, info=note)
    need = found.need
    return {
        "device": found.device,
        "weights_bytes": need.weights_bytes,
        "kv_bytes_per_token": need.kv_token_bytes,
        "work_space_bytes": need.work_space_bytes,
        "replay_bytes": need.replay_bytes,
        "kv_tokens": found.kv_tokens,
        "budget_bytes": found.budget_bytes,
        "fits": found.problem == "",
        "problem": found.problem or None,
    }


def _license(checkpoint: Checkpoint) -> str | None:
    """What the file, or the model card beside it, names as its licence."""
    from rtp_core.checkpoint.gguf import read_gguf

    if checkpoint.format == "gguf":
        named = read_gguf(checkpoint.path).metadata.get("general.license")
        return named if isinstance(named, str) else None
    card = checkpoint.path / "README.md"
    if not card.is_file():
        return None
    with open(card, encoding="utf-8", errors="replace") as file:
        front = re.match(r"---\n(.*?)\n---", file.read(_MAX_FRONT_MATTER), re.DOTALL)
    found = re.search(r"^license:[ \t]*(\S.*?)[ \t]*$", front[1], re.MULTILINE) if front else None
    return found[1].strip("\"'") if found else None
