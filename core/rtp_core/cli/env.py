"""`rtp env`: one report to paste into a bug report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from rtp_core import __version__
from rtp_core.cli.console import write, write_json
from rtp_core.cli.lines import as_lines
from rtp_core.cli.options import Debug, Json

if TYPE_CHECKING:
    from rtp_core.device.loader import Plugin

_TIMEOUT = 60  # seconds that one plan may take to tell


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

    plugins = load_plugins(with_report=True)
    plans = _plans(plugins)
    return {
        "rtp": __version__,
        "machine": machine(),
        "libraries": versions(*LIBRARIES),
        "plugins": [_plugin(plugin, plan) for plugin, plan in zip(plugins, plans, strict=True)],
        "cache": str(cache_root()),
        "variables": {name: value for name, value in sorted(os.environ.items()) if name.startswith("RTP_")},
    }


def _plugin(plugin: Plugin, plan: dict[str, Any]) -> dict[str, Any]:
    from rtp_core.cli.devices import row

    return {**row(plugin), **plan, "report": dict(plugin.report)}


def _plans(plugins: list[Plugin]) -> list[dict[str, Any]]:
    """For each plugin the hash of the default model's plan, where plugin and file are there; nothing is fetched."""
    from rtp_core.checkpoint import hub
    from rtp_core.device.loader import State

    path = hub.find(hub.DEFAULT_MODEL)
    usable = [] if path is None else [plugin.name for plugin in plugins if plugin.state is State.AVAILABLE]
    with ThreadPoolExecutor() as pool:
        plans = dict(zip(usable, pool.map(lambda name: _plan(str(path), name), usable), strict=True))
    return [plans.get(plugin.name, {"plan_hash": None}) for plugin in plugins]


def _plan(model: str, device: str) -> dict[str, Any]:
    """In a process of its own: this report is for when things are broken, and a device that opens may crash."""
    command = [sys.executable, "-m", "rtp_core.cli", "devices", "explain", "--json"]
    command += ["--model", model, "--device", device]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT, check=True)
        return {"plan_hash": json.loads(done.stdout)["hash"]}
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip()
        return {"plan_hash": None, "plan_problem": said or f"it ended with {error.returncode}"}
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError) as error:
        return {"plan_hash": None, "plan_problem": f"{type(error).__name__}: {error}"}
