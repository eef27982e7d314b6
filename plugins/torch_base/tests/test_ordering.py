"""Streams and events: what is ordered works however late it runs; what is not is found, in planted mistakes too."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from lazy_accelerator import LazyEvent, LazyStream, OrderError
from lazy_device import LazyDevice, LazyKernelsDevice, open_device
from numpy.typing import NDArray

from rtp_core.plugin import Buffer, DeviceError, Norm, dtypes
from rtp_torch.in_flight import InFlight
from rtp_torch.staging import SLOTS

SHAPE = (64, 64)
Planted = pytest.MonkeyPatch


def numbers(seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)


@pytest.fixture
def kernels() -> Iterator[LazyKernelsDevice]:
    device = open_device(LazyKernelsDevice, 64 << 20)
    yield device
    device.close()


def new(device: LazyDevice) -> Buffer:
    return device.alloc(SHAPE, dtypes.float32, "test")


# -- what is right -------------------------------------------------------------------------------------------------


def test_a_copy_comes_after_what_was_asked_for_before_it(device: LazyDevice) -> None:
    x, copied = device.upload(numbers(), "x"), new(device)
    device.non_blocking_copy(copied, device.add(x, x)).wait()
    np.testing.assert_array_equal(device.download(copied), 2 * numbers())


def test_nothing_has_happened_before_somebody_waits(device: LazyDevice) -> None:
    x, landing = device.upload(numbers(), "x"), np.zeros(SHAPE, np.float32)
    event = device.non_blocking_copy(Buffer.borrow(landing), x)
    assert not landing.any()
    event.synchronize()
    np.testing.assert_array_equal(landing, numbers())


def test_a_kernel_waits_in_its_stream_as_ops_do(kernels: LazyKernelsDevice) -> None:
    x, residual = kernels.upload(numbers(1), "x"), kernels.upload(numbers(2), "residual")
    kernels.synchronize()
    kernels._add_norm(x, residual, Norm(x[0], 1e-5))
    content = kernels._see(residual).content
    np.testing.assert_array_equal(content, numbers(2))
    kernels.synchronize()
    np.testing.assert_array_equal(content, numbers(1) + numbers(2))


def test_a_host_array_may_change_once_it_has_been_given(device: LazyDevice) -> None:
    array, arrived = numbers(), []
    for round_number in range(2 * SLOTS):  # the ring comes round
        array[...] = round_number
        arrived.append(device.upload(array, "x"))
    array[...] = -1
    for round_number, x in enumerate(arrived):
        assert (device.download(x) == round_number).all()


def test_an_array_larger_than_a_slot_arrives_whole(device: LazyDevice) -> None:
    large = np.arange(3 << 20, dtype=np.int32).reshape(3, 1 << 10, 1 << 10)[:, ::-1]
    np.testing.assert_array_equal(device.download(device.upload(large, "x")), large)


def test_memory_of_a_copy_is_held_until_it_has_passed(device: LazyDevice) -> None:
    before = device.arena.stats().used_bytes
    event = device.non_blocking_copy(new(device), device.upload(numbers(), "x"))
    held = device.arena.stats().used_bytes
    assert held - before == 2 * numbers().nbytes
    device.alloc((1,), dtypes.float32, "other")
    assert device.arena.stats().used_bytes == held
    event.synchronize()
    assert device.arena.stats().used_bytes == before


@pytest.mark.parametrize("how", ["wait", "synchronize the device", "another allocation"])
def test_memory_of_a_copy_goes_back_however_its_end_is_known(device: LazyDevice, how: str) -> None:
    before = device.arena.stats().used_bytes
    event = device.non_blocking_copy(new(device), device.upload(numbers(), "x"))
    if how == "wait":
        event.wait()
    elif how == "synchronize the device":
        device.synchronize()
    else:
        device._accelerator.synchronize()  # the copy is over, and nobody has said so
        device.alloc((1,), dtypes.float32, "other")
    assert device.arena.stats().used_bytes == before


def test_copies_and_ops_take_turns_in_memory(device: LazyDevice) -> None:
    """What a copy gives back is soon somebody else's."""
    total = device.upload(np.zeros(SHAPE, np.float32), "total")
    for seed in range(20):
        x, copied = device.upload(numbers(seed), "x"), new(device)
        device.non_blocking_copy(copied, device.mul(x, x)).wait()
        device.add(total, copied, out=total)
    expected = np.zeros(SHAPE, np.float32)
    for seed in range(20):
        expected += numbers(seed) * numbers(seed)
    np.testing.assert_array_equal(device.download(total), expected)


def test_a_read_only_array_is_no_target(device: LazyDevice) -> None:
    landing = np.zeros(SHAPE, np.float32)
    landing.flags.writeable = False
    with pytest.raises(DeviceError, match="read-only"):
        device.copy(Buffer.borrow(landing), device.upload(numbers(), "x"))


def test_copies_that_are_under_way_do_not_hinder_a_recording(device: LazyDevice) -> None:
    x = device.upload(numbers(), "x")
    device.non_blocking_copy(new(device), x)
    assert device.capture(lambda: (device.add(x, x), None)[1]) is not None


# -- what is not is found ------------------------------------------------------------------------------------------


def copy_of_a_result(device: LazyDevice) -> None:
    x = device.upload(numbers(), "x")
    device.non_blocking_copy(new(device), device.add(x, x))


def copy_of_freed_memory(device: LazyDevice) -> None:
    device.non_blocking_copy(new(device), device.upload(numbers(), "x"))
    x = device.upload(numbers(2), "x")
    device.add(x, x)


def no_wait(stream: LazyStream, event: LazyEvent) -> None:
    """What was planted: nobody waits."""


def no_hold(in_flight: InFlight, event: object, buffers: object) -> None:
    """What was planted: nobody holds the memory."""


@pytest.mark.parametrize(
    ("where", "name", "planted", "use"),
    [
        (LazyStream, "wait_event", no_wait, copy_of_a_result),
        (InFlight, "hold", no_hold, copy_of_freed_memory),
    ],
    ids=["the copy does not wait for the op before it", "memory goes back while a copy uses it"],
)
def test_a_planted_mistake_is_found(
    device: LazyDevice,
    monkeypatch: Planted,
    where: type,
    name: str,
    planted: Callable[..., None],
    use: Callable[[LazyDevice], None],
) -> None:
    use(device)
    device.synchronize()
    monkeypatch.setattr(where, name, planted)
    with pytest.raises(OrderError, match="nothing orders"):
        use(device)


def test_an_op_that_does_not_wait_for_a_copy_is_found(device: LazyDevice) -> None:
    x, copied = device.upload(numbers(), "x"), new(device)
    event = device.non_blocking_copy(copied, x)
    with pytest.raises(OrderError, match=r"aten\.add"):
        device.add(copied, copied)
    event.wait()
    device.add(copied, copied)


def test_staging_that_does_not_wait_for_the_device_is_found(device: LazyDevice, monkeypatch: Planted) -> None:
    monkeypatch.setattr(LazyEvent, "synchronize", lambda event: None)
    with pytest.raises(AssertionError):
        test_a_host_array_may_change_once_it_has_been_given(device)


def test_a_device_that_does_not_wait_before_the_host_reads_is_found(device: LazyDevice) -> None:
    x, landing = device.upload(numbers(), "x"), np.zeros(SHAPE, np.float32)
    device.non_blocking_copy(Buffer.borrow(landing), x)  # and nobody synchronizes
    assert not landing.any()


@pytest.mark.parametrize("copied", ["x", "residual"])
def test_a_kernel_that_writes_what_a_copy_reads_is_found(kernels: LazyKernelsDevice, copied: str) -> None:
    """What it only reads may be copied meanwhile."""
    operands = {name: kernels.upload(numbers(), name) for name in ("x", "residual")}
    kernels.synchronize()
    kernels.non_blocking_copy(new(kernels), operands[copied])
    norm = Norm(kernels.upload(numbers()[0], "norm"), 1e-5)
    if copied == "x":
        kernels._add_norm(**operands, norm=norm)
        return
    with pytest.raises(OrderError, match="add_norm"):
        kernels._add_norm(**operands, norm=norm)
