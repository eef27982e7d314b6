"""What a step did is done again by its replay, on what the buffers hold by then; or there is no replay."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from lazy_device import LazyDevice
from numpy.typing import NDArray

from rtp_core.plugin import Buffer, DeviceError


def ints(*values: int) -> NDArray[np.int32]:
    return np.array(values, np.int32)


def test_a_replay_computes_on_what_the_buffers_hold_by_then(device: LazyDevice) -> None:
    numbers = np.random.default_rng(1).standard_normal((9, 7)).astype(np.float32)
    table, ids = device.upload(numbers, "table"), device.upload(ints(0, 0), "ids")
    results: list[Buffer] = []

    def compute() -> Buffer:
        rows = device.gather_rows(table, ids)
        return device.rms_norm(device.add(rows, rows), table[0], eps=1e-5)

    def step() -> None:
        results.clear()
        results.append(compute())

    replay = device.capture(step)
    assert replay is not None
    for chosen in (ints(3, 4), ints(8, 0), ints(5, 5)):
        device.copy(ids, Buffer.borrow(chosen))
        replay()
        np.testing.assert_array_equal(device.download(results[0]), device.download(compute()))


def test_a_step_takes_the_same_memory_however_often_it_runs(device: LazyDevice) -> None:
    x, addresses = device.upload(np.ones((4, 4), np.float32), "x"), []
    replay = device.capture(lambda: addresses.append(device.softmax(x).address))
    assert replay is not None
    assert len(addresses) == 2 and len(set(addresses)) == 1


def test_an_empty_step_is_recorded(device: LazyDevice) -> None:
    replay = device.capture(lambda: None)
    assert replay is not None
    replay()


@pytest.mark.parametrize("what", ["upload", "download", "non_blocking_copy", "synchronize"])
def test_a_step_that_needs_the_host_is_not(device: LazyDevice, what: str) -> None:
    x, other = device.upload(np.ones((3, 4), np.float32), "x"), np.zeros((3, 4), np.float32)
    steps: dict[str, Callable[[], object]] = {
        "upload": lambda: device.upload(other, "y"),
        "download": lambda: device.download(x),
        "non_blocking_copy": lambda: device.non_blocking_copy(Buffer.borrow(other), x),
        "synchronize": device.synchronize,
    }
    assert device.capture(lambda: (steps[what](), None)[1]) is None
    assert device.capture(lambda: None) is not None, "the next one is"
    np.testing.assert_array_equal(device.download(x), np.ones((3, 4)))


def test_an_error_in_a_step_passes_and_the_device_records_again(device: LazyDevice) -> None:
    def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        device.capture(broken)
    assert device.capture(lambda: None) is not None


def test_graphs_are_of_few_sizes(device: LazyDevice) -> None:
    sizes = [device.capture_size(count) for count in range(1, 34)]
    assert sizes == [1, 2, 4, 4, *[8] * 4, *[16] * 8, *[24] * 8, *[32] * 8, 40]


def test_a_step_within_a_step_is_an_error(device: LazyDevice) -> None:
    with pytest.raises(DeviceError, match=r"cannot record a step.*one is being recorded"):
        device.capture(lambda: (device.capture(lambda: None), None)[1])
    assert device.capture(lambda: None) is not None
