"""Devices over torch's CPU, and a distribution that offers them as a plugin.

Kernels run in Triton's interpreter: it must be chosen before triton is imported anywhere.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

os.environ.setdefault("TRITON_INTERPRET", "1")
sys.path.insert(0, str(Path(__file__).parent))  # for the modules beside this one, wherever pytest is started

import interpreted_bfloat16
import triton
from lazy_device import LazyDevice, LazyGraphsDevice, open_device

BUDGET = 64 << 20  # bytes
KINDS = ("lazy", "lazy_graphs", "lazy_kernels")
METADATA = "Metadata-Version: 2.1\nName: rtp-torch-lazy\nVersion: 0.1\nRequires-Dist: rtp-core\n"

if isinstance(triton.language.standard.cdiv, triton.JITFunction):
    raise pytest.UsageError("triton was imported without its interpreter: name this folder among pytest's test paths")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Operands are tiny."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    interpreted_bfloat16.mend(monkeypatch)


@pytest.fixture(params=[LazyDevice, LazyGraphsDevice], ids=lambda cls: cls.kind)
def device(request: pytest.FixtureRequest) -> Iterator[LazyDevice]:
    device = open_device(request.param, BUDGET)
    yield device
    device.close()


@pytest.fixture(scope="session")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The kinds of `lazy_plugin`, installed as far as importlib.metadata can tell."""
    site = tmp_path_factory.mktemp("site")
    info = site / "rtp_torch_lazy-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(METADATA)
    kinds = "".join(f"{kind} = lazy_plugin:{kind}\n" for kind in KINDS)
    (info / "entry_points.txt").write_text(f"[rtp.devices]\n{kinds}")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        yield
