"""Finds plugins and says what became of each: one state and one reason, nothing swallowed.

Phases: discover (metadata only), load, manifest (the API is negotiated before anything native loads), probe.
Creating a device is a step of its own, in `opening`. A failure in one plugin never touches another.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from enum import StrEnum
from importlib.metadata import EntryPoint, entry_points

import pluggy

from rtp_core.device.hooks import PROJECT, PluginHooks
from rtp_core.device.manifest import PLUGIN_API, DeviceInfo, Manifest
from rtp_core.device.op import No
from rtp_core.errors import ConfigError, ContractError

GROUP = "rtp.devices"


class State(StrEnum):
    """What became of a plugin."""

    AVAILABLE = "AVAILABLE"
    UNAVAILABLE = "UNAVAILABLE"  # its hardware is cleanly absent
    BROKEN = "BROKEN"
    INCOMPATIBLE = "INCOMPATIBLE"
    CONFLICT = "CONFLICT"
    BLOCKED = "BLOCKED"

    @property
    def is_unhealthy(self) -> bool:
        return self in (State.BROKEN, State.INCOMPATIBLE, State.CONFLICT)


@dataclass(frozen=True, slots=True)
class Plugin:
    """One installed plugin. `error` is the original exception of a BROKEN one; `hint` the next command."""

    kind: str
    dist: str
    version: str
    state: State
    reason: str = ""
    hint: str = ""
    manifest: Manifest | None = None
    devices: tuple[DeviceInfo, ...] = ()
    error: BaseException | None = None
    hooks: pluggy.HookRelay | None = None

    @property
    def name(self) -> str:
        """kind@dist, which names it even among rivals."""
        return f"{self.kind}@{self.dist}"


def load_plugins(kind: str | None = None) -> list[Plugin]:
    """Every installed plugin (of `kind`, or `kind@dist`), sorted by kind. Never raises for what one of them does.

    Reads RTP_PLUGINS: `a,b` allows these kinds alone, `-a` blocks one. Raises ConfigError where that is nonsense.
    """
    wanted_kind, _, wanted_dist = (kind or "").partition("@")
    found = [
        entry
        for entry in entry_points(group=GROUP)
        if (not wanted_kind or entry.name == wanted_kind) and (not wanted_dist or _dist(entry)[0] == wanted_dist)
    ]
    allowed, blocked = _selection(os.environ.get("RTP_PLUGINS", ""))
    plugins = []
    for entry in sorted(found, key=lambda e: (e.name, _dist(e))):
        rivals = sorted({_dist(other)[0] for other in found if other.name == entry.name} - {_dist(entry)[0]})
        plugins.append(
            _load(entry, rivals, is_blocked=entry.name in blocked or (bool(allowed) and entry.name not in allowed))
        )
    return plugins


def _selection(text: str) -> tuple[frozenset[str], frozenset[str]]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if any(not name.removeprefix("-") for name in names):
        raise ConfigError(f"RTP_PLUGINS is {text!r}", why="expected kinds separated by commas, a leading - blocks one")
    return frozenset(n for n in names if n[0] != "-"), frozenset(n[1:] for n in names if n[0] == "-")


def _dist(entry: EntryPoint) -> tuple[str, str]:
    return (entry.dist.name, entry.dist.version) if entry.dist else ("unknown", "0")


def _load(entry: EntryPoint, rivals: list[str], *, is_blocked: bool) -> Plugin:
    dist, version = _dist(entry)
    plugin = Plugin(entry.name, dist, version, State.BROKEN)
    if is_blocked:
        return replace(plugin, state=State.BLOCKED, reason="left out by RTP_PLUGINS", hint="unset RTP_PLUGINS")
    if rivals:
        return replace(
            plugin,
            state=State.CONFLICT,
            reason=f"{', '.join(rivals)} also provides {entry.name}",
            hint=f"--device {plugin.name}, or pip uninstall {dist}",
        )
    try:
        hooks = _register(entry)
        manifest = _checked(hooks.rtp_device_manifest(), entry.name)
    except (Exception, SystemExit) as error:
        return _broken(plugin, "its module failed to load", error)
    plugin = replace(plugin, manifest=manifest, hooks=hooks)
    reason = _incompatibility(manifest.api)
    if reason:
        return replace(plugin, state=State.INCOMPATIBLE, reason=reason, hint=f"pip install -U rtp-core {dist}")
    try:
        devices = hooks.rtp_device_probe()
        if isinstance(devices, No):
            return replace(plugin, state=State.UNAVAILABLE, reason=devices.reason)
        if not devices or not all(isinstance(device, DeviceInfo) for device in devices):
            raise ContractError(f"its probe answered {devices!r}", why="expected devices, or No(reason)")
    except (Exception, SystemExit) as error:
        return _broken(plugin, "its probe failed", error)
    return replace(plugin, state=State.AVAILABLE, devices=tuple(devices))


def _register(entry: EntryPoint) -> pluggy.HookRelay:
    # A manager of its own for each plugin: two of them never answer each other's hooks.
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(PluginHooks)
    manager.register(entry.load(), name=entry.name)
    manager.check_pending()  # a misspelled hook is an error, not a hook that nobody calls
    return manager.hook


def _checked(manifest: object, kind: str) -> Manifest:
    if not isinstance(manifest, Manifest):
        raise ContractError(f"rtp_device_manifest answered {manifest!r}", why="expected a Manifest")
    if manifest.kind != kind:
        raise ContractError(f"its manifest says kind {manifest.kind!r}", why=f"its entry point says {kind!r}")
    return manifest


def _incompatibility(api: tuple[int, int]) -> str:
    """Why core cannot serve a plugin of this API, or nothing: it serves its own major and the one before."""
    major, minor = PLUGIN_API
    if api[0] == major - 1 or (api[0] == major and api[1] <= minor):
        return ""
    age = "newer" if api > PLUGIN_API else "older"
    return f"it needs plugin API {api[0]}.{api[1]}, {age} than this core's {major}.{minor}"


def _broken(plugin: Plugin, what: str, error: BaseException) -> Plugin:
    return replace(
        plugin,
        state=State.BROKEN,
        reason=f"{what}: {type(error).__name__}: {error}",
        hint=f"rtp devices show {plugin.kind} for the traceback, or RTP_PLUGINS=-{plugin.kind} to leave it out",
        error=error,
    )
