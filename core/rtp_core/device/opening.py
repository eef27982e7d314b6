"""From what the user calls a device to an opened one. Never silently another than the one asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import NoReturn

from rtp_core.device.device import Device
from rtp_core.device.hardware_hints import hardware_hints, package_of
from rtp_core.device.hooks import load_hooks
from rtp_core.device.loader import Plugin, State, installed_kinds, load_plugins
from rtp_core.device.manifest import RANK, DeviceConfig, DeviceInfo, Manifest
from rtp_core.device.probing import Prober
from rtp_core.errors import ContractError, DeviceError, DeviceUnavailableError, RtpError

AUTO = "auto"
Info = Callable[[str], None]


class PluginFailure(Exception):
    """What went wrong in the process that probed a plugin: its traceback, as text."""


def open_device(
    name: str, config: DeviceConfig, *, allow_fallback: bool = False, info: Info = lambda line: None
) -> Device:
    """Open `auto`, a kind, `kind:index`, or either with the distribution: `kind@dist:index`.

    `auto` takes accelerators first, then cpu, never the reference; a broken plugin that might have been taken stops
    it unless `allow_fallback`, a cleanly absent device is one line to `info`.
    Raises DeviceUnavailableError with state, reason, what the plugin raised and next command.
    """
    plugin, device = find(name, allow_fallback=allow_fallback, info=info)
    return create(plugin, device, config)


def find(
    name: str, *, allow_fallback: bool = False, info: Info = lambda line: None, prober: Prober | None = None
) -> tuple[Plugin, DeviceInfo]:
    """The plugin and the device that a name means, not opened yet. Names and errors as in `open_device`."""
    if name == AUTO:
        plugin, index = _auto(load_plugins(prober=prober), allow_fallback, info)
    else:
        plugin, index = _named(name, prober)
    if plugin.reason:
        info(f"{plugin.kind}: {plugin.reason} ({plugin.hint})")
    if not 0 <= index < len(plugin.devices):
        raise DeviceUnavailableError(
            f"no device {plugin.kind}:{index}",
            why=f"there is {', '.join(d.id for d in plugin.devices)}",
            hint="rtp devices list",
        )
    return plugin, plugin.devices[index]


def create(plugin: Plugin, info: DeviceInfo, config: DeviceConfig) -> Device:
    """Open one device of an AVAILABLE plugin, whose module is imported now and here.

    Raises ContractError where it is not what its manifest says.
    """
    try:
        device = load_hooks(plugin.kind, plugin.value).rtp_device_create(info=info, config=config)
    except RtpError:
        raise
    except (Exception, SystemExit) as error:
        raise DeviceError(
            f"cannot open {info.id}",
            where=plugin.dist,
            why=f"{type(error).__name__}: {error}",
            hint=f"rtp devices show {plugin.kind}",
        ) from error
    if not isinstance(device, Device):
        raise ContractError(f"{plugin.dist} created {device!r}", why="expected a Device")
    if not hasattr(device, "arena"):
        raise ContractError(
            f"{plugin.dist} created a {type(device).__name__} without an arena",
            why="expected its __init__ to call super().__init__(info, config)",
        )
    try:
        _check_created(plugin, info, device)
    except ContractError:
        device.close()
        raise
    return device


def _check_created(plugin: Plugin, info: DeviceInfo, device: Device) -> None:
    """Raises ContractError where a device differs from what its plugin has said of it."""
    promised = plugin.manifest
    assert promised is not None, "an AVAILABLE plugin has a manifest"
    if promised.is_of_older_major:  # such a manifest names its implementations and no more
        declared = {override.impl for override in promised.overrides}
        actual = {override.impl for override in device.overrides}
    else:
        declared = set(map(repr, promised.overrides))
        actual = {repr(override.declared) for override in device.overrides}
    if declared != actual:
        raise ContractError(
            f"the manifest of {plugin.dist} does not match its device",
            why=f"only declared: {_listed(declared - actual)}; only there: {_listed(actual - declared)}",
        )
    own: Manifest = device.manifest
    differing = [
        f"{f.name}: the plugin says {getattr(promised, f.name)!r}, the class {getattr(own, f.name)!r}"
        for f in fields(Manifest)
        if getattr(promised, f.name) != getattr(own, f.name)
    ]
    if differing:
        raise ContractError(
            f"{plugin.dist} has one manifest in its plugin and another in {type(device).__name__}",
            why="; ".join(differing),
        )
    if device.info != info:
        raise ContractError(f"{plugin.dist} opened {device.info!r}", why=f"expected {info!r}, which was asked for")


def _listed(overrides: set[str]) -> str:
    return ", ".join(sorted(overrides)) or "none"


def _named(name: str, prober: Prober | None) -> tuple[Plugin, int]:
    kind, _, index = name.partition(":")
    plugins = load_plugins(kind, prober=prober)
    if not plugins:
        package = package_of(kind.partition("@")[0])
        raise DeviceUnavailableError(
            f"no device {name!r}",
            why=f"installed kinds are {', '.join(installed_kinds())}",
            hint=f"pip install {package}" if package else "rtp devices list",
        )
    plugin = min(plugins, key=lambda p: p.state is State.BLOCKED)  # a blocked rival is out of the way
    if plugin.state is not State.AVAILABLE:
        _refuse(plugin, f"device {name!r} is {plugin.state}", plugin.hint or "rtp devices list")
    if index and not index.isdecimal():
        raise DeviceUnavailableError(f"no device {name!r}", why="expected kind or kind:index", hint="rtp devices list")
    return plugin, int(index or 0)


def _refuse(plugin: Plugin, what: str, hint: str) -> NoReturn:
    cause = PluginFailure("\n" + (plugin.traceback or plugin.output)) if plugin.state is State.BROKEN else None
    raise DeviceUnavailableError(what, where=plugin.dist, why=plugin.reason, hint=hint) from cause


def _auto(plugins: Sequence[Plugin], allow_fallback: bool, info: Info) -> tuple[Plugin, int]:
    usable = [p for p in plugins if p.state is State.AVAILABLE and _rank(p) < RANK["reference"]]
    best = min(usable, key=_rank, default=None)
    for plugin in plugins:
        if plugin.state is State.UNAVAILABLE:
            info(f"{plugin.kind}: {plugin.reason}")
        elif plugin.state.is_unhealthy:
            # One that could not have been chosen anyway changes nothing.
            if not allow_fallback and _rank(plugin) <= (_rank(best) if best else RANK["cpu"]):
                _refuse(
                    plugin,
                    f"device {plugin.kind!r} is installed but {plugin.state}",
                    f"fix it, block it with RTP_PLUGINS=-{_shortest_name(plugin)}, or --allow-device-fallback",
                )
            info(f"{plugin.kind}: {plugin.state}: {plugin.reason}")
    if best is None:
        hints = hardware_hints({plugin.kind for plugin in plugins})
        raise DeviceUnavailableError(
            "no usable device",
            why="; ".join(["no installed plugin is AVAILABLE", *map(str, hints)]),
            hint=hints[0].command if hints else "rtp devices list",
        )
    return best, 0


def _shortest_name(plugin: Plugin) -> str:
    return plugin.name if plugin.state is State.CONFLICT else plugin.kind


def _rank(plugin: Plugin) -> int:
    """Where `auto` looks for it; one that never said what it is may be an accelerator."""
    return RANK[plugin.manifest.device_class] if plugin.manifest else 0
