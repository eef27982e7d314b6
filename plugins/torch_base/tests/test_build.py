"""What torch says of itself is what its files say."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from rtp_torch.build import TorchBuild, installed_torch

FILE = """from typing import Optional

__all__ = ['__version__', 'debug', 'cuda', 'git_version', 'hip', 'xpu']
__version__ = '2.9.1+rocm6.4'
debug = False
cuda: Optional[str] = None
git_version = 'abc'
hip: Optional[str] = '6.4.43484-123eb5128'
xpu: Optional[str] = None
"""


def test_the_installed_one() -> None:
    assert installed_torch() == TorchBuild(torch.__version__, torch.version.cuda, torch.version.hip)


def test_one_for_another_vendor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text("raise AssertionError('imported')")
    (tmp_path / "torch/version.py").write_text(FILE)
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.delitem(sys.modules, "triton")
    build = installed_torch()
    assert build == TorchBuild("2.9.1+rocm6.4", None, "6.4.43484-123eb5128", has_triton=False)
    assert str(build) == "torch 2.9.1+rocm6.4, built for ROCm 6.4.43484-123eb5128"


def test_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rtp_torch.build.find_spec", lambda name: None)
    assert installed_torch() is None
