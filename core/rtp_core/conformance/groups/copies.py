"""copies: any strides, any dtype, both ways between host and device; events order what is copied."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtp_core import dtypes
from rtp_core.conformance.case import Case
from rtp_core.conformance.expectation import CheckFailed, expect
from rtp_core.conformance.subject import Subject
from rtp_core.device.device import Device
from rtp_core.dtypes import DType
from rtp_core.errors import DeviceError
from rtp_core.memory.buffer import Buffer
from rtp_core.memory.qbuffer import SCHEMES

GROUP = "copies"
SHAPE = (6, 4, 10)

# Views of a buffer of SHAPE, as source and as target: always [3, 2, 5].
VIEWS: Mapping[str, Callable[[Buffer], Buffer]] = {
    "a corner": lambda x: x[:3, :2, :5],
    "every other": lambda x: x[::2, ::2, ::2],
    "the end": lambda x: x[3:, 2:, 5:],
    "transposed": lambda x: x.transpose(1, 2, 0)[:3, :2, :5],
    "columns first": lambda x: x.transpose(2, 1, 0)[1:9:3, 1:3, 1:6],
}


def cases(subject: Subject) -> Iterator[Case]:
    if subject.opening_error:
        return
    moved = _moved(subject)
    for dtype in moved:
        yield Case(GROUP, f"{dtype} there and back", partial(_round_trip, dtype))
    for to, source, (to_host, from_host) in product(VIEWS, VIEWS, product((False, True), repeat=2)):
        way = f"from {'host' if from_host else 'device'} to {'host' if to_host else 'device'}"
        yield Case(GROUP, f"{source} into {to}, {way}", partial(_strided, to, source, to_host, from_host))
    for dtype in moved:
        yield Case(GROUP, f"strided {dtype}", partial(_strided, "transposed", "every other", False, False, dtype=dtype))
    yield Case(GROUP, "a copy of nothing", _nothing)
    yield Case(GROUP, "other shapes and dtypes are an error", _mismatch)
    yield Case(GROUP, "a non-blocking copy has arrived once its event has passed", _event)
    yield Case(GROUP, "work after an event's wait sees what was copied", _order)


def _moved(subject: Subject) -> list[DType]:
    """All dtypes, but for codes of schemes that the device does not list: they never reach it."""
    met = {SCHEMES[name].code_dtype for name in subject.manifest.schemes if name in SCHEMES}
    return [dtype for dtype in dtypes.ALL.values() if dtype is not dtypes.float8_e4m3fn or dtype in met]


def _numbers(dtype: DType, shape: tuple[int, ...] = SHAPE) -> NDArray[Any]:
    values = np.random.default_rng(1).integers(0, 100, shape)
    return values.astype(dtype.numpy)


def _expect_equal(got: NDArray[Any], expected: NDArray[Any], what: str) -> None:
    wrong = np.argwhere(got != expected)
    if len(wrong):
        at = tuple(map(int, wrong[0]))
        raise CheckFailed(f"{what}: expected {expected[at]} at {at}, got {got[at]}; {len(wrong)} numbers differ")


def _round_trip(dtype: DType, subject: Subject) -> None:
    numbers = _numbers(dtype)
    for array in (numbers, numbers.transpose(2, 0, 1), numbers[0, 0], numbers[:0]):
        back = subject.device.download(subject.device.upload(np.asarray(array), "conformance"))
        expect(back.shape == array.shape, f"expected shape {array.shape} back, got {back.shape}")
        _expect_equal(back, np.asarray(array), f"{dtype} uploaded and downloaded")


def _strided(
    to: str, source: str, to_host: bool, from_host: bool, subject: Subject, *, dtype: DType = dtypes.float32
) -> None:
    device, numbers = subject.device, _numbers(dtype)
    landing = np.zeros(SHAPE, dtype.numpy)
    src = Buffer.borrow(numbers.copy()) if from_host else device.upload(numbers, "conformance")
    dst = Buffer.borrow(landing) if to_host else device.upload(landing, "conformance")
    device.copy(VIEWS[to](dst), VIEWS[source](src))
    device.synchronize()
    expected = np.zeros(SHAPE, dtype.numpy)
    VIEWS[to](Buffer.borrow(expected)).numpy()[...] = VIEWS[source](Buffer.borrow(numbers)).numpy()
    _expect_equal(landing if to_host else device.download(dst), expected, f"{source} copied into {to}")
    _expect_equal(np.asarray(src.numpy()) if from_host else device.download(src), numbers, "the source of a copy")


def _nothing(subject: Subject) -> None:
    device = subject.device
    source, target = device.alloc((0, 3), dtypes.float32, "conformance"), device.upload(_numbers(dtypes.float32), "t")
    device.copy(target.view(24, 10)[:0, :3], source)
    _expect_equal(device.download(target), _numbers(dtypes.float32), "the target of a copy of nothing")


def _mismatch(subject: Subject) -> None:
    device = subject.device
    target = device.alloc((3, 2), dtypes.float32, "conformance")
    for shape, dtype in (((2, 3), dtypes.float32), ((3, 2), dtypes.int32)):
        source = device.alloc(shape, dtype, "conformance")
        try:
            device.copy(target, source)
        except DeviceError:
            continue
        raise CheckFailed(f"expected DeviceError for a copy from {source!r} to {target!r}, got none")


def _event(subject: Subject) -> None:
    device, numbers = subject.device, _numbers(dtypes.float32)
    target = device.alloc(SHAPE, dtypes.float32, "conformance")
    device.non_blocking_copy(target, device.upload(numbers, "conformance")).synchronize()
    _expect_equal(device.download(target), numbers, "a non-blocking copy")


def _order(subject: Subject) -> None:
    device, numbers = subject.device, _numbers(dtypes.float32, (4, 4))
    target, last = _zeros(device), _zeros(device)
    device.non_blocking_copy(target, device.upload(numbers, "conformance")).wait()
    total = device.add(target, target)
    done = device.event()
    done.wait()
    device.copy(last, total)
    device.synchronize()
    _expect_equal(device.download(last), numbers + numbers, "what was computed after the event")


def _zeros(device: Device) -> Buffer:
    return device.upload(np.zeros((4, 4), np.float32), "conformance")
