"""`rtp env`: one report to paste into a bug report."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from rtp_core import __version__
from rtp_core.cli.console import write, write_json
from rtp_core.cli.lines import as_lines
from rtp_core.cli.options import Debug, Json

if TYPE_CHECKING:
    from rtp_core.device.loader import Plugin


def env(as_json: Json = False, debug: Debug = False) -> None:
    """Versions, machine, plugins and settings."""
    report = _report()
    if as_json:
        write_json(report)
    else:
        write("\n".join(as_lines(report)) + "\n")


def _report() -> dict[str, Any]:
    from rtp_core.checkpoint.cache import cache_root
    from rtp_core.cli.machine import LIBRARIES, machine, versions
    from rtp_core.device.loader import load_plugins

    return {
        "rtp": __version__,
        "machine": machine(),
        "libraries": versions(*LIBRARIES),
        "plugins": [_plugin(plugin) for plugin in load_plugins()],
        "cache": str(cache_root()),
        "variables": {name: value for name, value in sorted(os.environ.items()) if name.startswith("RTP_")},
    }


def _plugin(plugin: Plugin) -> dict[str, Any]:
    from rtp_core.cli.devices import row

    return {**row(plugin), "report": _plugin_report(plugin)}


def _plugin_report(plugin: Plugin) -> dict[str, str]:
    """What a plugin tells about its drivers. One that fails is itself worth reporting."""
    if plugin.hooks is None:
        return {}
    try:
        answer = plugin.hooks.rtp_env_report()
        return {str(key): str(value) for key, value in (answer or {}).items()}
    except Exception as error:
        return {"rtp_env_report failed": f"{type(error).__name__}: {error}"}
