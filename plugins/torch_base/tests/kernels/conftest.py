"""Kernels run in Triton's interpreter, on the CPU: it must be chosen before triton is imported anywhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("TRITON_INTERPRET", "1")
sys.path.insert(0, str(Path(__file__).parent))  # for kernel_oracle, from whatever folder pytest is started

import interpreted_bfloat16
import triton

from rtp_core.device.reference import ReferenceDevice
from rtp_core.plugin import DeviceConfig, DeviceInfo

BUDGET = 64 << 20  # bytes

if isinstance(triton.language.standard.cdiv, triton.JITFunction):
    raise pytest.UsageError("triton was imported without its interpreter: name this folder among pytest's test paths")


@pytest.fixture
def ref() -> Iterator[ReferenceDevice]:
    """NumPy's definition of every op."""
    device = ReferenceDevice(DeviceInfo("ref:0", "NumPy", BUDGET, BUDGET), DeviceConfig(memory_budget=BUDGET))
    yield device
    device.close()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture(autouse=True)
def _bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    interpreted_bfloat16.mend(monkeypatch)


@pytest.fixture(autouse=True)
def _infinities_are_meant() -> Iterator[None]:
    """The interpreter computes in NumPy, which warns of what a GPU does in silence."""
    with np.errstate(all="ignore"):
        yield
