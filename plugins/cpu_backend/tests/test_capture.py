"""What a step did to memory is done again by its tape, on what the buffers hold by then; or there is no tape."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from rtp_core.plugin import Buffer, DeviceError
from rtp_cpu.device import CpuDevice


def test_a_replay_computes_on_what_the_buffers_hold_by_then(device: CpuDevice, rng: np.random.Generator) -> None:
    x, y = (device.upload(rng.standard_normal((5, 7)).astype(np.float32), "x") for _ in range(2))
    ids = device.upload(np.array([0, 0, 0], np.int32), "ids")
    results: list[Buffer] = []
    replay = device.capture(lambda: results.append(device.gather_rows(device.add(x, y), ids)))
    assert replay is not None
    (result,) = results
    np.testing.assert_array_equal(result.numpy(), (x.numpy() + y.numpy())[[0, 0, 0]])  # recording is running
    for _ in range(3):
        x.numpy()[...] = rng.standard_normal((5, 7))
        ids.numpy()[...] = rng.integers(0, 5, 3)
        replay()
        np.testing.assert_array_equal(result.numpy(), (x.numpy() + y.numpy())[ids.numpy()])


def test_an_empty_step_is_recorded(device: CpuDevice) -> None:
    replay = device.capture(lambda: None)
    assert replay is not None
    replay()


@pytest.mark.parametrize("is_to_host", [True, False])
def test_a_step_that_copies_from_or_to_the_host_is_not(device: CpuDevice, is_to_host: bool) -> None:
    x, other = device.upload(np.ones((3, 4), np.float32), "x"), np.zeros((3, 4), np.float32)
    step: Callable[[], object] = (lambda: device.download(x)) if is_to_host else (lambda: device.upload(other, "y"))
    assert device.capture(lambda: (step(), None)[1]) is None
    assert device.capture(lambda: None) is not None, "the next one is"


def test_an_error_in_a_step_passes_and_the_device_records_again(device: CpuDevice) -> None:
    x = device.upload(np.ones((3, 4), np.float32), "x")

    def broken() -> None:
        device.add(x, x, out=x)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        device.capture(broken)
    replay = device.capture(lambda: (device.add(x, x, out=x), None)[1])
    assert replay is not None
    replay()
    assert x.numpy().tolist() == [[8.0] * 4] * 3  # once with the error, once recorded, once replayed


def test_a_step_within_a_step_is_an_error(device: CpuDevice) -> None:
    with pytest.raises(DeviceError, match=r"cannot record a step.*one is being recorded"):
        device.capture(lambda: (device.capture(lambda: None), None)[1])
    assert device.capture(lambda: None) is not None


def test_a_kernel_that_fails_in_a_replay_is_named_and_the_replay_can_run_again(device: CpuDevice) -> None:
    table, ids = device.upload(np.eye(4, dtype=np.float32), "table"), device.upload(np.array([1], np.int32), "ids")
    results: list[Buffer] = []
    replay = device.capture(lambda: results.append(device.gather_rows(table, ids)))
    assert replay is not None
    ids.numpy()[0] = 4
    with pytest.raises(DeviceError, match=r"an id, position, slot or block lies outside its table in gather_rows"):
        replay()
    ids.numpy()[0] = 2
    replay()
    assert results[0].numpy().tolist() == [[0, 0, 1, 0]]


def test_kernels_may_have_moved_their_own_memory_between_replays(device: CpuDevice, rng: np.random.Generator) -> None:
    x = device.upload(rng.standard_normal((2, 64)).astype(np.float32), "x")
    results: list[Buffer] = []
    replay = device.capture(lambda: results.extend(device.top_k(x, 3)))
    assert replay is not None
    device.top_k(device.upload(rng.standard_normal((1, 20_000)).astype(np.float32), "wide"), 20_000)  # takes more
    x.numpy()[...] = rng.standard_normal((2, 64))
    replay()
    np.testing.assert_array_equal(results[0].numpy(), -np.sort(-x.numpy())[:, :3])


def test_the_memory_of_recorded_steps_is_told_for_as_long_as_they_can_be_replayed(device: CpuDevice) -> None:
    x = device.upload(np.ones((3, 4), np.float32), "x")
    assert device.memory_beside() == {}

    def recorded(calls: int) -> Callable[[], None] | None:
        return device.capture(lambda: [device.add(x, x, out=x) for _ in range(calls)] and None)

    few, many = recorded(1), recorded(1000)
    both = device.memory_beside()["tapes of recorded steps"]
    del few
    one = device.memory_beside()["tapes of recorded steps"]
    assert both > one > 1000 * 64, "a call takes a line of memory or more"
    del many
    assert device.memory_beside() == {}
