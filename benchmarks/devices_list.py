"""What `rtp devices list` costs with five plugins installed beside those of the environment.

    python benchmarks/devices_list.py [--rounds 10]

Prints one JSON document: CPU milliseconds, user and system, of the command and of every process it starts; the
median and the worst of the rounds, with the same for an interpreter that does nothing. The plugins answer as light
modules do: what a vendor's own probe costs is the vendor's.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

PLUGINS = 5
LIMIT_MS = 500
MODULE = """
from rtp_core.plugin import DeviceInfo, Manifest, hookimpl, host_memory_info

MANIFEST = Manifest(
    kind="bench{n}", vendor="bench", api=(1, 0), device_class="accelerator", dtypes=("float32", "bfloat16")
)


@hookimpl
def rtp_device_manifest():
    return MANIFEST


@hookimpl
def rtp_device_probe():
    total, free = host_memory_info()
    return [DeviceInfo(f"bench{n}:{{i}}", "a card", total, free) for i in range(8)]
"""


def install(site: Path) -> None:
    """Five distributions, each with one plugin."""
    for n in range(PLUGINS):
        (site / f"bench_plugin_{n}.py").write_text(MODULE.format(n=n))
        info = site / f"rtp_bench{n}-1.0.dist-info"
        info.mkdir()
        requires = "Requires-Dist: rtp-core"
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: rtp-bench{n}\nVersion: 1.0\n{requires}\n")
        (info / "entry_points.txt").write_text(f"[rtp.devices]\nbench{n} = bench_plugin_{n}\n")


def cpu_ms(command: list[str], environment: dict[str, str]) -> tuple[float, str]:
    """CPU milliseconds of a command and its children, and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime) * 1e3, done.stdout


def measure(rounds: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as site:
        install(Path(site))
        path = os.pathsep.join(filter(None, [site, os.environ.get("PYTHONPATH", "")]))
        environment = {**os.environ, "PYTHONPATH": path}
        listing = [sys.executable, "-m", "rtp_core.cli", "devices", "list", "--json"]
        _, printed = cpu_ms(listing, environment)  # the first run writes bytecode
        states = {row["kind"]: row["state"] for row in json.loads(printed)["plugins"]}
        assert [states[f"bench{n}"] for n in range(PLUGINS)] == ["AVAILABLE"] * PLUGINS, states
        listed = [cpu_ms(listing, environment)[0] for _ in range(rounds)]
        bare = [cpu_ms([sys.executable, "-c", "pass"], environment)[0] for _ in range(rounds)]
    return {
        "schema": 1,
        "plugins": len(states),
        "rounds": rounds,
        "cpu_ms_median": round(statistics.median(listed), 1),
        "cpu_ms_worst": round(max(listed), 1),
        "interpreter_cpu_ms_median": round(statistics.median(bare), 1),
        "limit_ms": LIMIT_MS,
        "is_within_limit": statistics.median(listed) < LIMIT_MS,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    print(json.dumps(measure(parser.parse_args().rounds)))


if __name__ == "__main__":
    main()
