"""Builds the wheels of core and of our plugins, installs them into a clean environment, and uses them from there.

    python tests/package/check_wheels.py

Run by `tox -e package`; needs the `build` package, a C compiler, and the network on a first run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROJECTS = ("core", "plugins/cpu_backend", "plugins/torch_base", "plugins/cuda_backend", "plugins/rocm_backend")
NEEDS_TORCH = {"rtp_torch", "rtp_cuda", "rtp_rocm"}  # gigabytes that nothing here asks for


def run(*command: str | Path, cwd: Path, **env: str) -> str:
    """Standard output of a command that succeeds."""
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=os.environ | env, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} exited {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def build_wheels(folder: Path) -> list[Path]:
    for project in PROJECTS:
        run(sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT / project, cwd=folder)
    return sorted(folder.glob("*.whl"))


def check_contents(wheels: list[Path]) -> None:
    names = {name for wheel in wheels for name in zipfile.ZipFile(wheel).namelist()}
    template = {name for name in names if "/plugin_template/" in name and name.endswith(".in")}
    assert any(name.endswith("/device.py.in") for name in template), "rtp plugin new has nothing to write"
    names -= template  # with tests and C in it
    assert any(name.endswith("entry_points.txt") for name in names)
    assert {f"rtp_core/memory/report/page.{ending}" for ending in ("html", "css", "js")} <= names
    names = {name for name in names if not name.startswith("rtp_core/conformance/")}  # whose tests are what it ships
    assert not [name for name in names if "test" in name or name.endswith((".c", ".h", ".o"))], "sources in a wheel"


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        wheels = build_wheels(folder)
        check_contents(wheels)
        venv.create(folder / "venv", with_pip=True)
        python, rtp = folder / "venv/bin/python", folder / "venv/bin/rtp"
        for_gpus = [wheel for wheel in wheels if wheel.name.partition("-")[0] in NEEDS_TORCH]
        run(
            python, "-m", "pip", "install", "--quiet", *(wheel for wheel in wheels if wheel not in for_gpus), cwd=folder
        )
        run(python, "-m", "pip", "install", "--quiet", "--no-deps", *for_gpus, cwd=folder)

        installed = {d["name"] for d in json.loads(run(python, "-m", "pip", "list", "--format=json", cwd=folder))}
        assert {"rtp-core", "rtp-cpu", "rtp-torch", "rtp-cuda", "rtp-rocm"} <= installed, installed
        assert not installed & {"torch", "transformers"}, installed

        plugins = {p["kind"]: p for p in json.loads(run(rtp, "devices", "list", "--json", cwd=folder))["plugins"]}
        states = {kind: plugin["state"] for kind, plugin in plugins.items()}
        without = {"cuda": "UNAVAILABLE", "rocm": "UNAVAILABLE"}  # their hardware, or at least their torch
        assert states == {"cpu": "AVAILABLE", "ref": "AVAILABLE"} | without, states
        for kind, vendor in {"cuda": "NVIDIA", "rocm": "AMD"}.items():
            assert vendor in plugins[kind]["reason"] or "torch is not installed" in plugins[kind]["reason"], plugins[
                kind
            ]

        question = ("generate", "Why is the sky blue?", "--temperature", "0", "--max-tokens", "48", "--json")
        first = json.loads(run(rtp, *question, cwd=folder))
        assert first["device"] == "cpu:0" and len(first["token_ids"]) == 48 and "light" in first["text"].lower(), first
        offline = json.loads(run(rtp, *question, cwd=folder, PIP_NO_INDEX="1", PIP_FIND_LINKS="", HF_HUB_OFFLINE="1"))
        assert offline["token_ids"] == first["token_ids"]
        portable = json.loads(run(rtp, *question, cwd=folder, RTP_CPU_ISA="portable"))
        assert "light" in portable["text"].lower(), portable
        print(f"{', '.join(wheel.name for wheel in wheels)}: installed and used; {first['text']!r}")


if __name__ == "__main__":
    main()
