"""A driver library that a C compiler makes, and a torch that a file says is there."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import rtp_cuda.probe
from rtp_torch.build import TorchBuild

Torch = Callable[[TorchBuild | None], None]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    built = tmp_path_factory.mktemp("driver") / "libcuda.so.1"
    source = Path(__file__).with_name("fake_cuda.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-Wall", "-Werror", "-o", built, source], check=True)
    return str(built)


@pytest.fixture
def torch_is(monkeypatch: pytest.MonkeyPatch) -> Torch:
    """torch_is(build): what is installed."""
    return lambda build: monkeypatch.setattr(rtp_cuda.probe, "installed_torch", lambda: build)
