"""Products of codes of 8 bits: NumPy's of both operands quantized; floats where sizes or hardware do not suit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from lazy_device import LazyDevice, LazyGraphsDevice, LazyKernelsDevice, open_device
from numpy.typing import NDArray
from torch import Tensor

from rtp_core.conformance.subject import Subject
from rtp_core.conformance.suite import cases, run_case
from rtp_core.device import reference_ops
from rtp_core.memory.outline import outline
from rtp_core.memory.qbuffer import SCHEMES
from rtp_core.plugin import Buffer, Device, DType, QBuffer, dtypes
from rtp_torch import matmul, scaled
from rtp_torch.gpu import Gpu

f32 = dtypes.float32
N, K = 48, 64
CODES = {"int8_channel": (np.dtype(np.int8), 127), "fp8_channel": (np.dtype(ml_dtypes.float8_e4m3fn), 448)}
ROUNDING = {"int8_channel": 1e-5, "fp8_channel": 2.0**-8}  # torch's result is bfloat16 for float8
each_scheme = pytest.mark.parametrize("scheme", CODES)

Floats = NDArray[np.float32]


@pytest.fixture
def device() -> Iterator[LazyDevice]:
    device = open_device(LazyDevice, 64 << 20)
    yield device
    device.close()


@pytest.fixture
def multiplied(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of torch's products of codes, as they are asked for: with operands that CUDA takes, too."""
    called: list[str] = []

    def noting(name: str) -> Callable[..., Tensor]:
        function = getattr(torch, name)

        def call(x: Tensor, weight: Tensor, *scales: Tensor, out: Tensor, **options: Any) -> Tensor:
            called.append(name)
            CUDA_TAKES[name](x, weight, *scales, out)
            return function(x, weight, *scales, out=out, **options)

        return call

    for name in CUDA_TAKES:
        monkeypatch.setattr(torch, name, noting(name))
    return called


def _int_mm_takes(x: Tensor, weight: Tensor, out: Tensor) -> None:
    assert x.shape[0] > 16
    assert x.shape[1] % 8 == weight.shape[1] % 8 == 0
    assert out.is_contiguous()


def _scaled_mm_takes(x: Tensor, weight: Tensor, x_scales: Tensor, scales: Tensor, out: Tensor) -> None:
    assert x.shape[1] % 16 == weight.shape[1] % 16 == 0
    assert (x_scales.shape, scales.shape) == ((x.shape[0], 1), (1, weight.shape[1]))
    assert x.is_contiguous() and weight.t().is_contiguous() and x_scales.is_contiguous() and scales.is_contiguous()
    assert out.is_contiguous() and out.dtype == torch.bfloat16


CUDA_TAKES = {"_int_mm": _int_mm_takes, "_scaled_mm": _scaled_mm_takes}


def plain(scheme: str, rows: int = N, columns: int = K) -> QBuffer:
    numbers = np.random.default_rng(5).standard_normal((rows, columns)).astype(np.float32)
    parts = [Buffer.borrow(part) for part in reference_ops.quantize(numbers, SCHEMES[scheme])]
    return QBuffer.of_parts(SCHEMES[scheme], (rows, columns), parts)


def numbers_of(weight: QBuffer) -> NDArray[np.float64]:
    return reference_ops.dequantize([part.numpy() for part in weight.parts], weight.scheme).astype(np.float64)


def prepared(device: Device, weight: QBuffer) -> QBuffer:
    result = device.prepare_weight(weight, "weight")
    assert isinstance(result, QBuffer)
    return result


def quantized(x: Floats, scheme: str) -> NDArray[np.float64]:
    """What the codes of each row stand for."""
    dtype, largest = CODES[scheme]
    scales = np.abs(x).max(axis=1, keepdims=True) / np.float32(largest)
    exact = x / np.where(scales == 0, 1, scales)
    codes = (np.rint(exact) if dtype == np.int8 else exact).astype(dtype)
    return codes.astype(np.float64) * scales


def normal(*shape: int, seed: int = 6) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def close(found: NDArray[Any], expected: NDArray[np.float64], rounding: float) -> None:
    np.testing.assert_allclose(
        found.astype(np.float64), expected, rtol=rounding, atol=rounding * np.abs(expected).max()
    )


@each_scheme
@pytest.mark.parametrize("dtype", [f32, dtypes.bfloat16, dtypes.float16], ids=str)
@pytest.mark.parametrize("rows", [1, 16, 17, 40])
@pytest.mark.parametrize("has_bias", [False, True])
def test_products_are_numpys_of_what_codes_stand_for(
    device: LazyDevice, multiplied: list[str], scheme: str, dtype: DType, rows: int, has_bias: bool
) -> None:
    """x and out in the middle of wider rows."""
    wide, shift, weight = normal(rows, K + 5).astype(dtype.numpy), normal(N, seed=7).astype(dtype.numpy), plain(scheme)
    out = device.upload(np.full((rows, N + 2), 9).astype(dtype.numpy), "out")
    x, bias = device.upload(wide, "x")[:, 3 : K + 3], device.upload(shift, "bias") if has_bias else None
    device.gemm(x, prepared(device, weight), bias=bias, trans_b=True, out=out[:, 1 : N + 1])
    found = device.download(out)
    expected = quantized(wide[:, 3 : K + 3].astype(np.float32), scheme) @ numbers_of(weight).T
    close(found[:, 1:-1], expected + (shift.astype(np.float64) if has_bias else 0), max(ROUNDING[scheme], 2.0**-8))
    if dtype is f32 and scheme == "int8_channel":
        close(found[:, 1:-1], expected + (shift if has_bias else 0), ROUNDING[scheme])
    assert (found[:, [0, -1]] == 9).all()
    assert multiplied == ["_int_mm" if scheme == "int8_channel" else "_scaled_mm"]


def test_a_device_with_kernels_meets_them_at_full() -> None:
    subject = Subject.of_class(LazyKernelsDevice)
    found = [case for case in cases(subject, "primitives") if any(scheme in case.name for scheme in CODES)]
    assert {case.name.split()[0] for case in found} == {"gather_rows", "gemm", "quantize", "dequantize"}
    assert [outcome for case in found if (outcome := run_case(case, subject)).message] == []
    subject.close()


@each_scheme
def test_a_result_that_torch_can_write_itself_is_written_once(device: LazyDevice, scheme: str) -> None:
    x, weight = normal(20, K), plain(scheme)
    found = device.gemm(device.upload(x.astype(ml_dtypes.bfloat16), "x"), prepared(device, weight), trans_b=True)
    expected = quantized(x.astype(ml_dtypes.bfloat16).astype(np.float32), scheme) @ numbers_of(weight).T
    close(device.download(found), expected, 2.0**-8)


@each_scheme
def test_pieces_make_the_same_whole(device: LazyDevice, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    """Of rows while they are quantized, of columns while they are multiplied; the last ones are shorter."""
    x, weight = device.upload(normal(21, K), "x"), prepared(device, plain(scheme))
    whole = device.download(device.gemm(x, weight, trans_b=True))
    monkeypatch.setattr(matmul, "BLOCK_BYTES", 4 * 32 * 8 * 5)  # 5 * 8 of 48 columns of int32, and 20 of 21 rows
    np.testing.assert_array_equal(device.download(device.gemm(x, weight, trans_b=True)), whole)


@each_scheme
def test_rows_without_a_peak_or_with_none_that_is_finite_stay_alone(device: LazyDevice, scheme: str) -> None:
    x, bias = normal(5, K), normal(N, seed=7)
    x[0], x[1, 3], x[2, 3], x[3] = 0, np.nan, np.inf, x[3] * np.float32(1e-38)
    weight = plain(scheme)
    operands = device.upload(x, "x"), prepared(device, weight)
    found = device.download(device.gemm(*operands, bias=device.upload(bias, "bias"), trans_b=True))
    close(found[[0, 3]], np.stack([bias, bias]).astype(np.float64), ROUNDING[scheme])
    assert not np.isfinite(found[1:3]).any()
    close(found[4:], quantized(x[4:], scheme) @ numbers_of(weight).T + bias, ROUNDING[scheme])


@each_scheme
@pytest.mark.parametrize("why", ["rows", "columns", "a batch", "the hardware"])
def test_what_units_do_not_take_is_multiplied_in_floats(
    device: LazyDevice, multiplied: list[str], monkeypatch: pytest.MonkeyPatch, scheme: str, why: str
) -> None:
    monkeypatch.setattr(device._accelerator, "multiplies", lambda codes: why != "the hardware")
    weight = plain(scheme, N - (why == "rows"), K - (why == "columns"))
    x = normal(*((2, 3) if why == "a batch" else (5,)), weight.shape[1])
    found = device.download(device.gemm(device.upload(x, "x"), prepared(device, weight), trans_b=True))
    np.testing.assert_allclose(found, x @ numbers_of(weight).T, rtol=1e-5, atol=1e-5)
    assert multiplied == []


@each_scheme
def test_a_recorded_product_reads_what_is_there_when_it_is_replayed(scheme: str) -> None:
    device = open_device(LazyGraphsDevice, 64 << 20)
    first, second, weight = normal(3, K), normal(3, K, seed=8), plain(scheme)
    x, out, stored = device.upload(first, "x"), device.alloc((3, N), f32, "out"), prepared(device, weight)
    replay = device.capture(lambda: device.gemm(x, stored, trans_b=True, out=out))
    assert replay is not None
    device.copy(x, Buffer.borrow(second))
    replay()
    close(device.download(out), quantized(second, scheme) @ numbers_of(weight).T, ROUNDING[scheme])
    device.close()


# -- memory --------------------------------------------------------------------------------------------------------


def taken(device: Device, weight: QBuffer, rows: int, dtype: DType) -> tuple[int, list[tuple[int, str]]]:
    """Bytes at the peak of one product, and all that it allocates."""
    log: list[tuple[int, str]] = []
    x = device.alloc((rows, K), dtype, "x")
    device.arena.reset_peak()
    before = device.arena.stats().used_bytes
    with pytest.MonkeyPatch.context() as patch:
        allocate = device.arena.allocate
        patch.setattr(
            device.arena, "allocate", lambda nbytes, tag: (log.append((nbytes, tag)), allocate(nbytes, tag))[1]
        )
        device.gemm(x, weight, trans_b=True)
    return device.arena.stats().peak_bytes - before, log


@each_scheme
@pytest.mark.parametrize("dtype", [f32, dtypes.bfloat16], ids=str)
def test_fewer_rows_never_take_more_and_a_rehearsal_takes_the_same(
    device: LazyDevice, monkeypatch: pytest.MonkeyPatch, scheme: str, dtype: DType
) -> None:
    monkeypatch.setattr(matmul, "BLOCK_BYTES", 1 << 13)
    twin = device.rehearsal()
    assert twin is not None
    absent = outline((N, K), SCHEMES[scheme])
    assert isinstance(absent, QBuffer)
    weights = prepared(device, plain(scheme)), prepared(twin, absent)
    peaks = []
    for rows in range(1, 80):
        real, rehearsed = (
            taken(each, weight, rows, dtype) for each, weight in zip((device, twin), weights, strict=True)
        )
        assert rehearsed == real
        peaks.append(real[0])
    assert peaks == sorted(peaks)


# -- whether the hardware has units --------------------------------------------------------------------------------

TORCH = {torch.int8: "_int_mm", torch.float8_e4m3fn: "_scaled_mm"}
each_codes = pytest.mark.parametrize("codes", TORCH, ids=str)


@each_codes
def test_torchs_cpu_is_found_to_multiply_codes(codes: torch.dtype) -> None:
    assert scaled.is_served(codes, torch.device("cpu"))


@each_codes
@pytest.mark.parametrize("error", [RuntimeError("only supported on"), NotImplementedError(), ValueError("fnuz"), None])
def test_a_library_that_refuses_or_errs_is_not_used(
    monkeypatch: pytest.MonkeyPatch, codes: torch.dtype, error: Exception | None
) -> None:
    def refusing(*args: Any, out: Tensor, **options: Any) -> None:
        out.zero_()
        if error is not None:
            raise error

    monkeypatch.setattr(torch, TORCH[codes], refusing)
    assert not scaled.is_served(codes, torch.device("cpu"))


@each_codes
@pytest.mark.parametrize("said", ["CUDA out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "an illegal memory access"])
def test_errors_of_the_device_are_no_answer(monkeypatch: pytest.MonkeyPatch, codes: torch.dtype, said: str) -> None:
    def failing(*args: Any, **options: Any) -> None:
        raise RuntimeError(said)

    monkeypatch.setattr(torch, TORCH[codes], failing)
    with pytest.raises(RuntimeError, match=said):
        scaled.is_served(codes, torch.device("cpu"))


def test_a_gpu_asks_once_for_each_kind_of_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.dtype] = []
    monkeypatch.setattr(scaled, "is_served", lambda codes, device: (asked.append(codes), codes == torch.int8)[1])
    gpu = object.__new__(Gpu)
    gpu._device, gpu._multiplies = torch.device("cpu"), {}
    assert [gpu.multiplies(codes) for codes in (*TORCH, *TORCH)] == [True, False, True, False]
    assert asked == list(TORCH)
