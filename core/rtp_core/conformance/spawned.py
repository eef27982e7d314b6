"""A plugin as fresh processes see it: how much its module loads, and whether it leaves core alone.

    python -m rtp_core.conformance.spawned light|deep KIND VALUE INFO

INFO is the device to open, as JSON. One line of JSON is the last on standard output. Nothing is imported up here
that a listing of plugins would not import.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import time
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.machinery import EXTENSION_SUFFIXES
from typing import Any

from rtp_core.device.manifest import DeviceConfig, DeviceInfo

TIME_LIMIT_S = 120.0
BUDGET = 16 << 20  # bytes

# Where a plugin could reach: everything that an engine imports.
CORE = ("rtp_core.engine.loading", "rtp_core.device.reference", "rtp_core.plugin")


@dataclass(frozen=True, slots=True)
class Observation:
    """`native`: extension modules that were loaded before the probe. `changed`: functions of core that are other ones.

    `error` says why a process could not load or open the plugin.
    """

    cpu_s: float = 0.0  # to import the module and ask for its manifest
    native: tuple[str, ...] = ()
    is_idempotent: bool = False
    is_same_manifest: bool = False
    changed: tuple[str, ...] = ()
    error: str = ""


def observe(kind: str, value: str, info: DeviceInfo) -> Observation:
    """Load the plugin in one process, load and open it in another."""
    light, deep = (_run(mode, kind, value, info) for mode in ("light", "deep"))
    error = light.pop("error", "") or deep.pop("error", "")
    return Observation(**light, **deep, error=error)


def _run(*arguments: Any) -> dict[str, Any]:
    *words, info = arguments
    command = [sys.executable, "-m", __name__, *words, json.dumps(asdict(info))]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIME_LIMIT_S)
    except subprocess.TimeoutExpired:
        return {"error": f"a fresh process was not done within {TIME_LIMIT_S:g} s"}
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return {"error": f"a fresh process ended with {done.returncode}: {last}"}
    found = json.loads(lines[-1])
    return {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}


def _light(kind: str, value: str, info: DeviceInfo) -> dict[str, Any]:
    from rtp_core.device.hooks import load_hooks

    before = set(sys.modules)
    start = time.process_time()
    manifest = load_hooks(kind, value).rtp_device_manifest()
    cpu_s = time.process_time() - start
    native = sorted(name for name in set(sys.modules) - before if _is_native(name))
    name = value.partition(":")[0].strip()
    module, again = sys.modules[name], load_hooks(kind, value).rtp_device_manifest()
    same = {"is_idempotent": sys.modules[name] is module, "is_same_manifest": again == manifest}
    return {"cpu_s": cpu_s, "native": native, **same}


def _is_native(name: str) -> bool:
    """Whether a module is an extension, and none of Python's own."""
    path = getattr(sys.modules[name], "__file__", None) or ""
    is_own = path.startswith(sysconfig.get_path("stdlib")) and "-packages" not in path
    return path.endswith(tuple(EXTENSION_SUFFIXES)) and not is_own


def _deep(kind: str, value: str, info: DeviceInfo) -> dict[str, Any]:
    from rtp_core.conformance.core_snapshot import changes, core_snapshot
    from rtp_core.device.hooks import load_hooks

    for module in CORE:
        import_module(module)
    before = core_snapshot()
    device = load_hooks(kind, value).rtp_device_create(info=info, config=DeviceConfig(memory_budget=BUDGET))
    device.close()
    return {"changed": changes(before, core_snapshot())}


if __name__ == "__main__":
    mode, kind, value, info = sys.argv[1:]
    found = (_light if mode == "light" else _deep)(kind, value, DeviceInfo(**json.loads(info)))
    print("\n" + json.dumps(found), flush=True)
