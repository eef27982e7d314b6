"""From what the user calls a device to an opened one. Never silently another than the one asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rtp_core.device.device import Device
from rtp_core.device.loader import Plugin, State, load_plugins
from rtp_core.device.manifest import RANK, DeviceConfig, DeviceInfo
from rtp_core.device.op import DeclaredOverride
from rtp_core.errors import ContractError, DeviceError, DeviceUnavailableError, RtpError

AUTO = "auto"


def open_device(
    name: str,
    config: DeviceConfig,
    *,
    allow_fallback: bool = False,
    info: Callable[[str], None] = lambda line: None,
) -> Device:
    """Open `auto`, a kind, `kind:index`, or either with the distribution: `kind@dist:index`.

    `auto` takes accelerators first, then cpu, never the reference; a broken plugin stops it unless
    `allow_fallback`, a cleanly absent device is one line to `info`.
    Raises DeviceUnavailableError with state, reason, original exception and next command.
    """
    plugin, index = _auto(load_plugins(), allow_fallback, info) if name == AUTO else _named(name)
    if not 0 <= index < len(plugin.devices):
        raise DeviceUnavailableError(
            f"no device {plugin.kind}:{index}",
            why=f"there is {', '.join(d.id for d in plugin.devices)}",
            hint="rtp devices list",
        )
    return create(plugin, plugin.devices[index], config)


def create(plugin: Plugin, info: DeviceInfo, config: DeviceConfig) -> Device:
    """Open one device of an AVAILABLE plugin. Raises ContractError where it is not what its manifest says."""
    assert plugin.hooks is not None and plugin.manifest is not None
    try:
        device = plugin.hooks.rtp_device_create(info=info, config=config)
    except RtpError:
        raise
    except Exception as error:
        raise DeviceError(
            f"cannot open {info.id}",
            where=plugin.dist,
            why=f"{type(error).__name__}: {error}",
            hint=f"rtp devices show {plugin.kind}",
        ) from error
    if not isinstance(device, Device):
        raise ContractError(f"{plugin.dist} created {device!r}", why="expected a Device")
    declared = set(plugin.manifest.overrides)
    actual = {override.declared for override in device.overrides}
    if declared != actual:
        raise ContractError(
            f"the manifest of {plugin.dist} does not match its device",
            why=f"only declared: {_listed(declared - actual)}; only there: {_listed(actual - declared)}",
        )
    return device


def _listed(overrides: set[DeclaredOverride]) -> str:
    return ", ".join(sorted(map(repr, overrides))) or "none"


def _named(name: str) -> tuple[Plugin, int]:
    kind, _, index = name.partition(":")
    plugins = load_plugins(kind)
    if not plugins:
        kinds = sorted({plugin.kind for plugin in load_plugins()})
        raise DeviceUnavailableError(
            f"no device {name!r}",
            why=f"installed kinds are {', '.join(kinds)}",
            hint=f"pip install rtp-{kind.partition('@')[0]}",
        )
    plugin = plugins[0]
    if plugin.state is not State.AVAILABLE:
        raise DeviceUnavailableError(
            f"device {name!r} is {plugin.state}",
            where=plugin.dist,
            why=plugin.reason,
            hint=plugin.hint or "rtp devices list",
        ) from plugin.error
    if index and not index.isdecimal():
        raise DeviceUnavailableError(f"no device {name!r}", why="expected kind or kind:index", hint="rtp devices list")
    return plugin, int(index or 0)


def _auto(plugins: Sequence[Plugin], allow_fallback: bool, info: Callable[[str], None]) -> tuple[Plugin, int]:
    for plugin in plugins:
        if plugin.state is State.UNAVAILABLE:
            info(f"{plugin.kind}: {plugin.reason}")
        elif plugin.state.is_unhealthy and not allow_fallback:
            raise DeviceUnavailableError(
                f"device {plugin.kind!r} is installed but {plugin.state}",
                where=plugin.dist,
                why=plugin.reason,
                hint=f"fix it, block it with RTP_PLUGINS=-{plugin.kind}, or --allow-device-fallback",
            ) from plugin.error
        elif plugin.state.is_unhealthy:
            info(f"{plugin.kind}: {plugin.state}: {plugin.reason}")
    ranked = sorted(
        (RANK[p.manifest.device_class], p.kind, i)
        for i, p in enumerate(plugins)
        if p.state is State.AVAILABLE and p.manifest and p.manifest.device_class != "reference"
    )
    if not ranked:
        raise DeviceUnavailableError(
            "no usable device", why="no installed plugin is AVAILABLE", hint="pip install rtp-cpu"
        )
    return plugins[ranked[0][2]], 0
