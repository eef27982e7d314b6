"""`rtp devices`: which plugins are installed, what became of each, and the devices they found."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rtp_core.cli import check, explain
from rtp_core.cli.console import note, plain, write, write_json
from rtp_core.cli.exit_code import ExitCode
from rtp_core.cli.group import command_group
from rtp_core.cli.lines import as_columns, as_lines
from rtp_core.cli.options import Debug, Json
from rtp_core.errors import DeviceUnavailableError

if TYPE_CHECKING:
    from rtp_core.device.hardware_hints import HardwareHint
    from rtp_core.device.loader import Plugin
    from rtp_core.device.manifest import DeviceInfo

app = command_group("Devices and the plugins that provide them.")
app.command("explain")(explain.explain)
app.command("check")(check.check)


@app.command("list")
def list_devices(as_json: Json = False, debug: Debug = False) -> None:
    """Every installed plugin: its state, its devices, and what is wrong. Ends with 4 if any is unhealthy."""
    from rtp_core.device.hardware_hints import hardware_hints
    from rtp_core.device.loader import load_plugins

    plugins = load_plugins()
    hints = hardware_hints(plugin.kind for plugin in plugins)
    if as_json:
        write_json({"plugins": [row(plugin) for plugin in plugins], "hints": [_hint(hint) for hint in hints]})
    else:
        _write_rows(plugins)
        for hint in hints:
            note(f"{hint}; try: {hint.command}")
    _exit_if_unhealthy(plugins)


@app.command("show")
def show(
    kind: Annotated[str, typer.Argument(help="A kind, or kind@dist.", show_default=False)],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """One plugin: manifest, result of its probe, and the original traceback if it failed."""
    from rtp_core.device.loader import installed_kinds, load_plugins

    plugins = load_plugins(kind)
    if not plugins:
        kinds = ", ".join(installed_kinds())
        raise DeviceUnavailableError(f"no device {kind!r}", why=f"installed kinds are {kinds}", hint="rtp devices list")
    if as_json:
        write_json({**_details(plugins[0]), "rivals": [_details(plugin) for plugin in plugins[1:]]})
    else:
        write("\n".join(_as_text(_details(plugin)) for plugin in plugins))
    _exit_if_unhealthy(plugins)


def row(plugin: Plugin) -> dict[str, Any]:
    """A plugin as the listing has it in JSON."""
    from rtp_core.device.conformance_report import shipped_report

    manifest = plugin.manifest
    return {
        "kind": plugin.kind,
        "dist": plugin.dist,
        "version": plugin.version,
        "api": None if plugin.api is None else list(plugin.api),
        "state": str(plugin.state),
        "reason": plugin.reason,
        "hint": plugin.hint,
        "devices": [asdict(device) for device in plugin.devices],
        "overrides": [] if manifest is None else [override.impl for override in manifest.overrides],
        "conformance": shipped_report(plugin.dist, plugin.value),
    }


def _details(plugin: Plugin) -> dict[str, Any]:
    return {
        **row(plugin),
        "manifest": None if plugin.manifest is None else plugin.manifest.as_data(),
        "traceback": plugin.traceback or None,
        "output": plugin.output or None,
    }


def _hint(hint: HardwareHint) -> dict[str, Any]:
    return {**asdict(hint), "command": hint.command}


def _exit_if_unhealthy(plugins: list[Plugin]) -> None:
    if any(plugin.state.is_unhealthy for plugin in plugins):
        raise typer.Exit(ExitCode.DEVICE)


def _write_rows(plugins: list[Plugin]) -> None:
    from rtp_core.device.conformance_report import as_text, shipped_report

    rows = [["KIND", "DIST", "VERSION", "API", "STATE", "DEVICES", "CONFORMANCE"]]
    for plugin in plugins:
        api = ".".join(map(str, plugin.api)) if plugin.api else "-"
        first, *more = [f"{d.id} {plain(d.name)}, {_memory(d)}" for d in plugin.devices] or ["-"]
        rows.append([plain(plugin.kind), plain(plugin.dist), plain(plugin.version), api, str(plugin.state), first])
        rows[-1].append(plain(as_text(shipped_report(plugin.dist, plugin.value))))
        rows += [["", "", "", "", "", device, ""] for device in more]
    write(as_columns(rows))
    # Under the table, where a long message of somebody's import error has a line of its own.
    for plugin in plugins:
        if plugin.reason:
            write(f"\n{plain(plugin.kind)} is {plugin.state}: {plain(plugin.reason)}\n")
            write(f"  try: {plain(plugin.hint)}\n" if plugin.hint else "")


def _as_text(details: dict[str, Any]) -> str:
    """`rtp devices show` for people; what the plugin raised and printed last, as it is."""
    texts = ("output", "traceback")
    lines = as_lines({key: value for key, value in details.items() if key not in texts})
    return "\n".join([*lines, *(f"\n{key}:\n{details[key].rstrip()}" for key in texts if details[key])]) + "\n"


def _memory(device: DeviceInfo) -> str:
    return f"{device.memory_free_bytes / 2**30:.1f} of {device.memory_total_bytes / 2**30:.1f} GiB free"
