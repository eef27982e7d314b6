"""The definition beside the kernels, which the folder above has brought into Triton's interpreter."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for kernel_oracle, from whatever folder pytest is started

from rtp_core.device.reference import ReferenceDevice
from rtp_core.plugin import DeviceConfig, DeviceInfo

BUDGET = 64 << 20  # bytes


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
def _infinities_are_meant() -> Iterator[None]:
    """The interpreter computes in NumPy, which warns of what a GPU does in silence."""
    with np.errstate(all="ignore"):
        yield
