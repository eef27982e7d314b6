"""Wheels that are built and installed for real, and `rtp` as a process that finds them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from .fixture_plugins import FORK, PLUGINS, REQUIRES
from .wheels import write_wheel

Run = Callable[..., "subprocess.CompletedProcess[str]"]

# Kinds of the environment that the tests run in; they are not what is tested here.
OTHERS = ("cpu", "cuda", "handle", "recorder", "rocm")


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all the wheels, installed by pip."""
    wheels, site = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("site")
    paths = [
        write_wheel(wheels, f"rtp-{kind}".replace("_", "-"), kind, source, requires=REQUIRES.get(kind, ("rtp-core",)))
        for kind, source in PLUGINS.items()
    ]
    paths.append(write_wheel(wheels, "twin-fork", "twin", FORK))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile"]
    subprocess.run([*pip, "--disable-pip-version-check", "--target", site, *paths], check=True)
    return site


@pytest.fixture
def environment(site: Path, tmp_path: Path) -> dict[str, str]:
    """The variables of a process that finds the wheels, with a cache of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RTP_")}
    path = os.pathsep.join(filter(None, [str(site), kept.get("PYTHONPATH", "")]))
    return kept | {"PYTHONPATH": path, "RTP_HOME": str(tmp_path / "home")}


@pytest.fixture
def python(environment: Mapping[str, str], tmp_path: Path) -> Run:
    """python(*arguments, plugins=..., cwd=..., NAME=value): the interpreter, with RTP_PLUGINS=plugins."""

    def run(
        *arguments: object, plugins: str, cwd: Path | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            env={**environment, "RTP_PLUGINS": plugins, **variables},
            cwd=cwd or tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )

    return run


@pytest.fixture
def rtp(python: Run) -> Run:
    """rtp(*arguments, plugins=...): the command line in a process of its own."""
    return lambda *arguments, **options: python("-P", "-m", "rtp_core.cli", *arguments, **options)
