"""Every test that takes `device` runs on each instruction set of this machine, with more threads than it needs."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rtp_core.plugin import DeviceConfig, DeviceInfo
from rtp_cpu.device import CpuDevice
from rtp_cpu.isa import available_isas

sys.path.insert(0, str(Path(__file__).parent))  # for cpu_oracle, from whatever folder pytest is started

BUDGET = 64 << 20  # bytes
THREADS = 3


_failed = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if report.failed:
        item.stash[_failed] = True
    return report


@pytest.fixture(params=available_isas())
def device(request: pytest.FixtureRequest) -> Iterator[CpuDevice]:
    info = DeviceInfo("cpu:0", request.param, BUDGET, BUDGET)
    device = CpuDevice(info, DeviceConfig(threads=THREADS, memory_budget=BUDGET), request.param)
    yield device
    device.close()
    if request.node.stash.get(_failed, False):
        return  # the traceback of a failed test still holds its buffers
    if device.arena.stats().used_bytes:
        gc.collect()
    device.arena.check_integrity()
    assert device.arena.stats().used_bytes == 0, device.arena.table()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)
