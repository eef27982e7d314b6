"""Finds plugins and says what became of each: one state and one reason, nothing swallowed.

Phases: discover (metadata only), load, manifest (the API is negotiated before anything native loads), probe. All but
the first happen in a process of their own (`probing`): a listing imports no plugin, and one that crashes or hangs
is BROKEN. Creating a device is a step of its own, in `opening`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from importlib.metadata import EntryPoint, entry_points

from rtp_core import __version__
from rtp_core.device import manifest as contract
from rtp_core.device.manifest import DeviceInfo, Manifest, kind_problem
from rtp_core.device.probing import FAILURES, Outcome, Prober
from rtp_core.errors import ConfigError

GROUP = "rtp.devices"
CORE = "rtp-core"


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
    """One installed plugin. `hint` is the next command; `value` what its entry point names.

    An AVAILABLE one has a reason where its API is of the major before this core's. `api` may be known where the
    manifest is not. `traceback` and `output` are texts from the process that probed it, `report` its `rtp_env_report`.
    """

    kind: str
    dist: str
    version: str
    state: State
    reason: str = ""
    hint: str = ""
    api: tuple[int, int] | None = None
    manifest: Manifest | None = None
    devices: tuple[DeviceInfo, ...] = ()
    traceback: str = ""
    output: str = ""
    report: Mapping[str, str] = field(default_factory=dict)
    value: str = ""

    @property
    def name(self) -> str:
        """kind@dist, which names it even among rivals."""
        return f"{self.kind}@{self.dist}"


def load_plugins(kind: str | None = None, *, with_report: bool = False, prober: Prober | None = None) -> list[Plugin]:
    """Every installed plugin (of `kind`, or `kind@dist`), sorted by kind. Never raises for what one of them does.

    Reads RTP_PLUGINS: `a,b` allows these alone, `-a` blocks one; each is a kind or `kind@dist`. Raises ConfigError
    where that is nonsense, or what Prober.from_environment reads. `prober`, where one is given, ends with this.
    """
    kind, _, dist = (kind or "").partition("@")
    found = [
        plugin
        for plugin in _discover()
        if (not kind or plugin.kind == kind) and (not dist or _normal(plugin.dist) == _normal(dist))
    ]
    allowed, blocked = _selection(os.environ.get("RTP_PLUGINS", ""))
    found = [_blocked(p) if _is_in(p, blocked) or (allowed and not _is_in(p, allowed)) else p for p in found]
    with prober or Prober.from_environment() as asked:
        return [
            p if p.state is State.BLOCKED else _settled(p, found) or _probed(p, asked, with_report=with_report)
            for p in found
        ]


def installed_kinds() -> list[str]:
    """The kinds that some plugin is installed for, in whatever state. Reads metadata alone."""
    return sorted({plugin.kind for plugin in _discover()})


def _discover() -> list[Plugin]:
    """All that the metadata says; the state is what holds until something better is known."""
    entries: Iterable[EntryPoint] = entry_points(group=GROUP)
    found = {
        (e.name, e.dist.name if e.dist else "unknown", e.dist.version if e.dist else "0", e.value) for e in entries
    }
    return [Plugin(kind, dist, version, State.BROKEN, value=value) for kind, dist, version, value in sorted(found)]


def _normal(dist: str) -> str:
    """Distribution names are equal if they are so after this: see the packaging specification."""
    return re.sub(r"[-_.]+", "-", dist).lower()


def _selection(text: str) -> tuple[frozenset[str], frozenset[str]]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if any(not name.removeprefix("-") for name in names):
        raise ConfigError(f"RTP_PLUGINS is {text!r}", why="expected kinds separated by commas, a leading - blocks one")
    return frozenset(n for n in names if n[0] != "-"), frozenset(n[1:] for n in names if n[0] == "-")


def _is_in(plugin: Plugin, names: frozenset[str]) -> bool:
    kinds_and_dists = [name.partition("@") for name in names]
    return any(
        kind == plugin.kind and (not dist or _normal(dist) == _normal(plugin.dist)) for kind, _, dist in kinds_and_dists
    )


def _blocked(plugin: Plugin) -> Plugin:
    return replace(plugin, state=State.BLOCKED, reason="left out by RTP_PLUGINS", hint="unset RTP_PLUGINS")


def _settled(plugin: Plugin, found: list[Plugin]) -> Plugin | None:
    """What metadata alone decides, or None: nothing of the plugin is imported for it."""
    leave_out = f"pip uninstall {plugin.dist}, or RTP_PLUGINS=-{plugin.name} to leave it out"
    problem = kind_problem(plugin.kind)
    if problem:
        return replace(plugin, reason=problem, hint=leave_out)
    rivals = [p for p in found if p.kind == plugin.kind and p != plugin and p.state is not State.BLOCKED]
    if any(p.dist == plugin.dist for p in rivals):
        return replace(plugin, reason=f"its metadata names {plugin.kind} twice", hint=leave_out)
    if rivals:
        return replace(
            plugin,
            state=State.CONFLICT,
            reason=f"{', '.join(p.dist for p in rivals)} also provides {plugin.kind}",
            hint=f"--device {plugin.name}, or {leave_out}",
        )
    unmet = _unmet_requirement(plugin.dist)
    if unmet:
        reason = f"it requires {unmet}, and this is {CORE} {__version__}"
        return replace(plugin, state=State.INCOMPATIBLE, reason=reason, hint=_upgrade(plugin))
    return None


def _unmet_requirement(dist: str) -> str:
    """What a distribution asks of core and this core does not meet: pip can be told not to look, or come too late."""
    from importlib.metadata import PackageNotFoundError, requires

    try:
        texts = [text for text in requires(dist) or () if _normal(re.split(r"[^\w.-]", text)[0]) == CORE != text]
    except PackageNotFoundError:
        return ""
    if not texts:
        return ""
    from packaging.requirements import InvalidRequirement, Requirement

    for text in texts:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        is_met = requirement.specifier.contains(__version__, prereleases=True)
        if not is_met and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            return f"{CORE}{requirement.specifier}"
    return ""


def _upgrade(plugin: Plugin) -> str:
    return f"pip install -U {CORE} {plugin.dist}"


def _probed(plugin: Plugin, prober: Prober, *, with_report: bool) -> Plugin:
    """The outcome of the other phases, from the process in which they happened."""
    api = contract.PLUGIN_API
    outcome = prober.ask(plugin.kind, plugin.value, api, report=with_report)
    plugin = replace(plugin, output=outcome.output)
    if outcome.answer is None:
        return _with_way_out(replace(plugin, reason=outcome.failure))
    try:
        plugin = _told(plugin, outcome)
    except (ValueError, TypeError, KeyError, AttributeError) as error:  # a plugin wrote into the channel
        plugin = replace(plugin, state=State.BROKEN, reason=f"its process answered nonsense: {error!r}")
    if plugin.state is State.AVAILABLE and plugin.manifest and plugin.manifest.is_of_older_major:
        major, minor = plugin.manifest.api
        reason = f"its plugin API {major}.{minor} is the one before this core's, which serves it for the last time"
        return replace(plugin, reason=reason, hint=f"pip install -U {plugin.dist}")
    return _with_way_out(plugin)


def _told(plugin: Plugin, outcome: Outcome) -> Plugin:
    answer = outcome.answer or {}
    api, manifest, reason = answer.get("api"), answer.get("manifest"), str(answer.get("reason", ""))
    return replace(
        plugin,
        state=State(answer["state"]),
        reason=f"{FAILURES[answer['phase']]}: {reason}" if "phase" in answer else reason,
        traceback=str(answer.get("traceback", "")),
        api=(int(api[0]), int(api[1])) if api else None,
        manifest=None if manifest is None else Manifest.from_data(manifest),
        devices=tuple(DeviceInfo(**device) for device in answer.get("devices", ())),
        report=dict(answer.get("report", {})),
    )


def _with_way_out(plugin: Plugin) -> Plugin:
    hints = {
        State.BROKEN: f"rtp devices show {plugin.kind} for the traceback, or "
        f"RTP_PLUGINS=-{plugin.kind} to leave it out",
        State.INCOMPATIBLE: _upgrade(plugin),
        State.UNAVAILABLE: f"rtp devices show {plugin.kind}, once its hardware and driver are there",
    }
    return replace(plugin, hint=hints.get(plugin.state, ""))
