"""An environment like a vendor's: what is installed here, and room for wheels that are built and installed by tests."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

# Build tools are installed already: an isolated build would fetch them anew for every wheel.
PIP = """#!/bin/sh
command="$1"; shift
case "$command" in
  install|wheel) exec '{python}' -m pip "$command" --no-build-isolation --no-index "$@" ;;
  *) exec '{python}' -m pip "$command" "$@" ;;
esac
"""
RTP = """#!/bin/sh
exec '{python}' -m rtp_core.cli "$@"
"""

# A device that cannot rehearse runs its worst steps at a start: with borrowed primitives, large ones take minutes.
LIMITS = {"RTP_MAX_MODEL_LEN": "64", "RTP_MAX_NUM_SEQS": "2", "RTP_MAX_NUM_BATCHED_TOKENS": "16"}


@dataclass(frozen=True, slots=True)
class VendorEnvironment:
    """A virtual environment that sees this one's packages and adds its own."""

    folder: Path
    home: Path
    variables: dict[str, str]

    def run(self, command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        """A line of shell; what it says on both streams is in `stdout`."""
        return subprocess.run(
            ["bash", "-c", command],
            cwd=cwd,
            env=self.variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def out(self, command: str, cwd: Path) -> str:
        """Standard output alone, of a line of shell that succeeds."""
        done = subprocess.run(
            ["bash", "-c", command], cwd=cwd, env=self.variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout


def make_environment(folder: Path, model: Path) -> VendorEnvironment:
    """The environment in a new folder."""
    home = folder / "venv"
    venv.create(home, symlinks=True, with_pip=False)
    python = home / "bin" / "python"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    # addsitedir reads the .pth files there, too: packages may be installed editable.
    site = "import site; " + "; ".join(f"site.addsitedir({path!r})" for path in _site_packages())
    (home / "lib" / version / "site-packages" / "outer.pth").write_text(site + "\n")
    for name, script in (("pip", PIP), ("rtp", RTP)):
        file = home / "bin" / name
        file.write_text(script.format(python=python))
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("RTP_", "PYTEST_"))}
    variables |= LIMITS | {
        "PATH": f"{home / 'bin'}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "RTP_MODEL": str(model),
        "RTP_HOME": str(folder / "rtp_home"),
        "HOME": str(folder),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_ROOT_USER_ACTION": "ignore",
        "TOKENIZERS_PARALLELISM": "false",
    }
    variables.pop("PYTHONWARNINGS", None)
    return VendorEnvironment(folder, home, variables)


def _site_packages() -> list[str]:
    return sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})


@pytest.fixture(scope="session")
def vendor(tmp_path_factory: pytest.TempPathFactory, default_model_path: Path) -> VendorEnvironment:
    """One environment for all tests; each installs plugins of other kinds."""
    return make_environment(tmp_path_factory.mktemp("vendor"), default_model_path.resolve())


def copy_of(folder: Path, to: Path) -> Path:
    """A project's sources, so that building it leaves nothing in the tree."""
    return Path(shutil.copytree(folder, to / folder.name, ignore=shutil.ignore_patterns("__pycache__", "build")))
