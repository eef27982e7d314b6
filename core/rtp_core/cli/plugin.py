"""`rtp plugin`: a vendor's road. `new` writes a plugin that works, `todo` counts what it still borrows."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rtp_core import __version__
from rtp_core.cli.console import OutputError, note, plain, write, write_json
from rtp_core.cli.group import command_group
from rtp_core.cli.lines import as_columns
from rtp_core.cli.options import Debug, Json, option
from rtp_core.errors import ConfigError, RtpError

if TYPE_CHECKING:
    from rtp_core.device.loader import Plugin
    from rtp_core.device.manifest import DeviceInfo

app = command_group("Write a plugin, and see what it still borrows.")

BUDGET = 64 << 20  # bytes: `todo` opens devices only to look at them


@app.command("new")
def new(
    name: Annotated[str, typer.Argument(help="The kind of device, as acme.", show_default=False)],
    native: Annotated[bool, option("--native", "With a kernel in C, built by CMake.")] = False,
    directory: Annotated[Path, option("--directory", "Where to put the new folder.")] = Path(),
    debug: Debug = False,
) -> None:
    """Write ./rtp-NAME: a plugin that installs, lists as AVAILABLE and passes its first check unedited."""
    from importlib.metadata import entry_points

    from rtp_core.device.loader import GROUP
    from rtp_core.device.manifest import PLUGIN_API
    from rtp_core.plugin_template.project import distribution, project

    files = project(name, native=native, api=PLUGIN_API, core_version=__version__)
    folder = directory / distribution(name)
    if os.path.lexists(folder):
        raise ConfigError(f"{folder} exists", why="nothing is overwritten", hint="remove it, or give --directory")
    _write_project(folder, files)
    write("".join(f"{folder / path}\n" for path in files))
    rivals = {e.dist.name for e in entry_points(group=GROUP, name=name) if e.dist} - {distribution(name)}
    if rivals:
        note(f"{', '.join(sorted(rivals))} provides kind {name} already: installed together they are in conflict")
    where = folder if folder.is_absolute() else f"./{folder}"
    note(f"next: pip install -e {where} && rtp devices check {name} --level primitive")


@app.command("todo")
def todo(
    kind: Annotated[str | None, typer.Argument(help="A kind, or kind@dist; all if not given.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """The primitives that devices still borrow, in the order in which to write them."""
    from rtp_core.device.loader import State, load_plugins
    from rtp_core.device.opening import find

    if kind is not None:
        if not kind.partition("@")[0]:
            raise ConfigError(f"bad kind {kind!r}", why="expected a kind, or kind@dist", hint="rtp devices list")
        found = _inventory(*find(kind, info=note))
        if as_json:
            write_json(asdict(found))
        else:
            write(_as_text(found))
        return
    inventories: list[Inventory] = []
    unopened: list[dict[str, str]] = []
    for plugin in load_plugins():
        reason = plugin.reason
        if plugin.state is State.AVAILABLE:
            try:
                inventories.append(_inventory(plugin, plugin.devices[0]))
                continue
            except RtpError as error:
                reason = str(error)
        unopened.append({"kind": plugin.kind, "dist": plugin.dist, "state": str(plugin.state), "reason": reason})
    if as_json:
        write_json({"plugins": [asdict(found) for found in inventories], "unopened": unopened})
        return
    write("\n".join(map(_as_text, inventories)))
    for one in unopened:
        note(f"{one['kind']} is {one['state']}: {one['reason']}")


@dataclass(frozen=True, slots=True)
class Inventory:
    """What of a device is whose: primitives borrowed and its own, both in writing order, and its overrides."""

    kind: str
    borrowed: tuple[str, ...]
    own: tuple[str, ...]
    overrides: tuple[str, ...]


def _write_project(folder: Path, files: Mapping[PurePosixPath, str]) -> None:
    """All of the files or nothing. Raises OutputError."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            root = staging / folder.name  # made by mkdir, so that it has everyday permissions
            for path, text in files.items():
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_text(text, encoding="utf-8")
            root.rename(folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise OutputError(
            f"cannot write {folder}", why=error.strerror or str(error), hint="give --directory a folder to write to"
        ) from error


def _inventory(plugin: Plugin, info: DeviceInfo) -> Inventory:
    """Opens the device for a moment: only its class knows what it borrows."""
    from rtp_core.device.borrowed import WRITING_ORDER, still_borrowed
    from rtp_core.device.manifest import DeviceConfig
    from rtp_core.device.opening import create

    device = create(plugin, info, DeviceConfig(memory_budget=min(BUDGET, info.memory_total_bytes)))
    try:
        own = tuple(name for name in WRITING_ORDER if name not in device.borrowed)
        return Inventory(plugin.kind, still_borrowed(device), own, tuple(o.impl for o in device.overrides))
    finally:
        device.close()


def _as_text(found: Inventory) -> str:
    from rtp_core.device.borrowed import meaning

    total = len(found.borrowed) + len(found.own)
    lines = [f"{plain(found.kind)}: primitives still borrowed: {len(found.borrowed)} of {total}\n"]
    rows: list[list[Any]] = [[f"  {name}", meaning(name)] for name in found.borrowed]
    lines.append(as_columns(rows) if rows else "")
    lines.append(f"  overrides: {', '.join(map(plain, found.overrides))}\n" if found.overrides else "")
    return "".join(lines)
