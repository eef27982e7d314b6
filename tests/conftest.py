"""Fixtures of all tests: devices whose memory must balance, and the default model's file."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from weakref import WeakSet

import pytest

from rtp_core.checkpoint import hub
from rtp_core.device.reference import ReferenceDevice
from rtp_core.memory.arena import Arena
from rtp_core.plugin import Device, DeviceConfig, DeviceInfo
from rtp_test_devices.handle import HandleDevice
from rtp_test_devices.recorder import RecorderDevice

DEVICE_BUDGET = 64 << 20  # bytes

MakeDevice = Callable[..., Device]

_failed = pytest.StashKey[bool]()
_arenas: WeakSet[Arena] = WeakSet()
_init = Arena.__init__


def _noting_init(arena: Arena, *args: Any, **options: Any) -> None:
    _init(arena, *args, **options)
    _arenas.add(arena)


Arena.__init__ = _noting_init  # type: ignore[method-assign]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if report.failed:
        item.stash[_failed] = True
    return report


@pytest.fixture(autouse=True)
def _steps_give_back_what_they_take(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every test the arenas hold no more for steps than before it: what is left is weights, KV and kernels'."""
    before = {id(arena): arena.stats().public_bytes for arena in _arenas}
    yield
    if request.node.stash.get(_failed, False):
        return  # the traceback of a failed test still holds its buffers
    if any(arena.stats().public_bytes > before.get(id(arena), 0) for arena in _arenas):
        gc.collect()  # what only a cycle holds is no leak; looking for it after every test would be slow
    for arena in _arenas:
        assert arena.stats().public_bytes <= before.get(id(arena), 0), f"{arena.name} leaks:\n{arena.table()}"


@pytest.fixture
def make_device(request: pytest.FixtureRequest) -> Iterator[MakeDevice]:
    """Creates devices of a class. After the test every one holds what it held when it was made: nothing has leaked."""
    made: list[tuple[Device, int]] = []

    def make(cls: type[Device], memory_budget: int = DEVICE_BUDGET) -> Device:
        info = DeviceInfo(f"{cls.kind}:0", cls.__name__, memory_budget, memory_budget)
        device = cls(info, DeviceConfig(memory_budget=memory_budget))
        made.append((device, device.arena.stats().used_bytes))
        return device

    yield make
    if request.node.stash.get(_failed, False):
        return  # the traceback of a failed test still holds its buffers
    for device, baseline in made:
        if device.arena.stats().used_bytes != baseline:
            gc.collect()  # what only a cycle holds is no leak; looking for it after every test would be slow
        device.arena.check_integrity()
        assert device.arena.stats().used_bytes == baseline, f"{device.kind} leaks:\n{device.arena.table()}"
        device.close()


@pytest.fixture
def ref_device(make_device: MakeDevice) -> Device:
    return make_device(ReferenceDevice)


@pytest.fixture
def handle_device(make_device: MakeDevice) -> Device:
    return make_device(HandleDevice)


@pytest.fixture
def recorder_device(make_device: MakeDevice) -> Device:
    return make_device(RecorderDevice)


@pytest.fixture(params=[ReferenceDevice, HandleDevice], ids=lambda cls: cls.kind)
def device(make_device: MakeDevice, request: pytest.FixtureRequest) -> Device:
    """Each device that computes, in turn."""
    return make_device(request.param)


@pytest.fixture(scope="session")
def default_model_path() -> Path:
    """The default model's file: RTP_TEST_MODEL, or what `rtp` itself would fetch."""
    path = os.environ.get("RTP_TEST_MODEL")
    return Path(path) if path else hub.resolve(hub.DEFAULT_MODEL)


@pytest.fixture(scope="session")
def embedding_model_path() -> Path:
    """The default embedding model's folder: RTP_TEST_EMBEDDING_MODEL, or what `rtp` itself would fetch."""
    path = os.environ.get("RTP_TEST_EMBEDDING_MODEL")
    return Path(path) if path else hub.resolve(hub.DEFAULT_EMBEDDING_MODEL)
