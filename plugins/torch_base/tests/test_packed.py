"""Weights that are packed at load: their numbers are the plain ones', their products are NumPy's."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from lazy_accelerator import OrderError
from lazy_device import LazyKernelsDevice, open_device
from numpy.typing import NDArray

from rtp_core.conformance.subject import Subject
from rtp_core.conformance.suite import cases, run_case
from rtp_core.device import reference_ops
from rtp_core.memory.outline import outline
from rtp_core.memory.qbuffer import SCHEMES
from rtp_core.plugin import Buffer, Device, DeviceError, QBuffer, dtypes
from rtp_torch import matmul
from rtp_torch.kernels import packed_gemm

SERVED = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0")
ROWS, COLUMNS = 70, 96  # an odd number of groups
FEW, MANY = 3, packed_gemm.FEW_ROWS + 1

f32 = dtypes.float32


@pytest.fixture
def device() -> Iterator[LazyKernelsDevice]:
    device = open_device(LazyKernelsDevice, 64 << 20)
    yield device
    device.close()


def plain(scheme: str, columns: int = COLUMNS) -> QBuffer:
    """In host memory."""
    numbers = np.random.default_rng(5).standard_normal((ROWS, columns)).astype(np.float32)
    parts = [Buffer.borrow(part) for part in reference_ops.quantize(numbers, SCHEMES[scheme])]
    return QBuffer.of_parts(SCHEMES[scheme], (ROWS, columns), parts)


def numbers_of(weight: QBuffer) -> NDArray[np.float32]:
    return reference_ops.dequantize([part.numpy() for part in weight.parts], weight.scheme)


def packed(device: Device, weight: QBuffer) -> QBuffer:
    result = device.prepare_weight(weight, "weight")
    assert isinstance(result, QBuffer)
    return result


def test_primitives_meet_packed_weights_at_full() -> None:
    subject = Subject.of_class(LazyKernelsDevice)
    found = [case for case in cases(subject, "primitives") if any(scheme in case.name for scheme in SERVED)]
    assert {case.name.split()[0] for case in found} >= {"gemm", "gather_rows", "dequantize"}
    assert [outcome for case in found if (outcome := run_case(case, subject)).message] == []
    subject.close()


@pytest.mark.parametrize("scheme", SERVED)
def test_numbers_of_a_packed_weight_are_those_of_the_plain_one(
    device: LazyKernelsDevice, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    monkeypatch.setattr(matmul, "BLOCK_BYTES", 1 << 10)  # packed in pieces, of which the last is a shorter one
    weight, ids = plain(scheme), np.array([69, 0, 3, 69], np.int32)
    prepared = packed(device, weight)
    assert prepared.layout == "packed"
    assert device.arena.totals().keys() == {"weight"}
    for dtype in (f32, dtypes.bfloat16):
        expected = numbers_of(weight).astype(dtype.numpy)
        np.testing.assert_array_equal(device.download(device.dequantize(prepared, dtype=dtype)), expected)
        rows = device.gather_rows(prepared, device.upload(ids, "ids"), dtype=dtype)
        np.testing.assert_array_equal(device.download(rows), expected[ids])


@pytest.mark.parametrize("scheme", ["q4_k", "q6_k"])
def test_what_the_layout_has_no_place_for_stays_plain(device: LazyKernelsDevice, scheme: str) -> None:
    weight = plain(scheme, columns=256)
    prepared = packed(device, weight)
    assert prepared.layout == "plain"
    np.testing.assert_array_equal(device.download(device.dequantize(prepared, dtype=f32)), numbers_of(weight))


@pytest.mark.parametrize(("rows", "kernels"), [(FEW, ["packed_gemm"]), (MANY, [])])
@pytest.mark.parametrize("scheme", SERVED)
def test_products_are_numpys(
    device: LazyKernelsDevice, monkeypatch: pytest.MonkeyPatch, scheme: str, rows: int, kernels: list[str]
) -> None:
    """Rows in the middle of wider ones, and so many columns that the kernel splits their sums."""
    launched, launch = [], device._accelerator.launch
    monkeypatch.setattr(
        device._accelerator, "launch", lambda kernel, *rest: (launched.append(kernel.__name__), launch(kernel, *rest))
    )
    rng, weight = np.random.default_rng(6), plain(scheme, columns=1024)
    x, bias = rng.standard_normal((rows, 1032)).astype(np.float32), rng.standard_normal(ROWS).astype(np.float32)
    out = device.upload(np.full((rows, ROWS + 2), 9, np.float32), "out")
    operands = device.upload(x, "x")[:, 3:1027], packed(device, weight)
    device.gemm(*operands, bias=device.upload(bias, "bias"), trans_b=True, out=out[:, 1 : ROWS + 1])
    found = device.download(out)
    expected = x[:, 3:1027].astype(np.float64) @ numbers_of(weight).astype(np.float64).T + bias
    np.testing.assert_allclose(found[:, 1:-1], expected, rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(found[:, [0, -1]], np.full((rows, 2), 9))
    assert launched == kernels


def test_a_weight_that_a_copy_still_writes_is_found(device: LazyKernelsDevice) -> None:
    weight = packed(device, plain("q4_0"))
    x, scales = device.alloc((FEW, COLUMNS), f32, "x"), device.alloc(weight.scales.shape, dtypes.float16, "scales")
    device.gemm(x, weight, trans_b=True)
    device.non_blocking_copy(weight.scales, scales)
    with pytest.raises(OrderError, match="packed_gemm"):
        device.gemm(x, weight, trans_b=True)


@pytest.mark.parametrize("form", ["a batch", "columns apart"])
def test_what_the_kernel_has_no_form_for_is_the_librarys(device: LazyKernelsDevice, form: str) -> None:
    weight, x = plain("q4_1"), np.random.default_rng(7).standard_normal((2, 3, COLUMNS)).astype(np.float32)
    if form == "a batch":
        a = device.upload(x, "x")
    else:
        x = x[0]
        a = device.upload(x.T, "x").transpose(1, 0)
    found = device.download(device.gemm(a, packed(device, weight), trans_b=True))
    np.testing.assert_allclose(found, x @ numbers_of(weight).T, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("rows", [FEW, MANY])
@pytest.mark.parametrize("wrong", ["x", "bias", "out", "trans_b"])
def test_operands_that_do_not_fit_are_one_clear_error(device: LazyKernelsDevice, wrong: str, rows: int) -> None:
    def room(*shape: int) -> Buffer:
        return device.alloc(shape, f32, "room")

    x = room(rows, COLUMNS - (wrong == "x"))
    bias, out = room(ROWS + (wrong == "bias")), room(rows, ROWS - (wrong == "out"))
    weight = packed(device, plain("q4_0"))
    with pytest.raises(DeviceError, match=r"cannot (take these operands|multiply).*QBuffer\(70x96"):
        device.gemm(x, weight, bias=bias, trans_b=wrong != "trans_b", out=out)


@pytest.mark.parametrize("scheme", SERVED)
def test_a_rehearsal_allocates_the_same_while_loading_and_after(
    device: LazyKernelsDevice, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    monkeypatch.setattr(matmul, "BLOCK_BYTES", 1 << 10)
    twin, weight = device.rehearsal(), plain(scheme)
    assert twin is not None
    absent = outline(weight.shape, weight.scheme)
    assert isinstance(absent, QBuffer)
    (real, mine), (rehearsed, theirs) = allocations(device, weight), allocations(twin, absent)
    assert rehearsed == real
    assert theirs == mine


def allocations(device: Device, weight: QBuffer) -> tuple[list[tuple[int, str]], tuple[int, int]]:
    """Sizes and tags of all that a weight and its ops take, in order, and the peaks after loading and at the end."""
    log: list[tuple[int, str]] = []
    with pytest.MonkeyPatch.context() as patch:
        allocate = device.arena.allocate
        patch.setattr(
            device.arena, "allocate", lambda nbytes, tag: (log.append((nbytes, tag)), allocate(nbytes, tag))[1]
        )
        prepared = packed(device, weight)
        loaded = device.arena.stats().peak_bytes
        for rows in (FEW, MANY):
            device.gemm(device.alloc((rows, COLUMNS), f32, "x"), prepared, trans_b=True)
        device.gather_rows(prepared, device.upload(np.zeros(3, np.int32), "ids"), dtype=dtypes.bfloat16)
        device.dequantize(prepared, dtype=dtypes.float16)
    return log, (loaded, device.arena.stats().peak_bytes)
