import resource
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from cpu_oracle import batch_of

from rtp_core.plugin import (
    Q4_0,
    Q4_1,
    Q8_0,
    Buffer,
    Device,
    DeviceError,
    DType,
    FfnWeights,
    Linear,
    MemorySpace,
    MoeWeights,
    Norm,
    QBuffer,
    QuantScheme,
    Shape,
    Storage,
    dtypes,
)
from rtp_cpu.device import CpuDevice

NOWHERE = MemorySpace("nowhere", host_addressable=False)
T, E, H, D = 9, 64, 4, 16
Case = Callable[[Device], object]


@pytest.fixture
def twin(device: CpuDevice) -> Iterator[CpuDevice]:
    twin = device.rehearsal()
    assert isinstance(twin, CpuDevice)
    yield twin
    twin.close()
    twin.close()
    assert twin.arena.stats().private_bytes == 0


def floats(device: Device, *shape: int, dtype: DType = dtypes.float32) -> Buffer:
    return device.upload(np.ones(shape, dtype.numpy), "x")


def ids(device: Device, *values: int) -> Buffer:
    return device.upload(np.array(values, np.int32), "ids")


def absent(*shape: int, dtype: DType = dtypes.float32) -> Buffer:
    """A weight of which there is only the shape."""
    return Buffer(Storage(NOWHERE, 0, 0, "outline"), dtype, shape)


def absent_quantized(scheme: QuantScheme, n: int, k: int) -> QBuffer:
    payload, scales = (
        absent(n, k // 32, scheme.payload_bytes, dtype=dtypes.uint8),
        absent(n, k // 32, dtype=dtypes.float16),
    )
    return QBuffer(scheme, (n, k), payload, scales, None if scheme.symmetric else scales)


def attention(op: str) -> Case:
    def run(device: Device) -> Buffer:
        batch = batch_of(device, [1, 1, 7, 70], [600, 9, 7, 150], 2, 16)
        kv = floats(device, 4 * batch.block_tables.shape[1], 2, 2, 16, D, dtype=dtypes.bfloat16)
        rows = slice(0, 2) if op == "_decoder_self_attention" else slice(2, 79)
        q = floats(device, 79, H, D, dtype=dtypes.float16)
        device.kv_write(kv, floats(device, 79, 2, D), floats(device, 79, 2, D), batch.slots)
        device.kv_gather(kv, batch.block_tables[0], 600)
        result: Buffer = getattr(device, op)(q[rows], kv, batch, scale=1.0)
        return result

    return run


def quantized(scheme: QuantScheme) -> Case:
    def run(device: Device) -> list[Buffer]:
        plain = device.quantize(floats(device, 70, E), scheme)
        weight = device.prepare_weight(plain, "weight")
        assert isinstance(weight, QBuffer)
        x = floats(device, T, E, dtype=dtypes.bfloat16)
        rows = [device.gather_rows(w, ids(device, 69, 0, 3), dtype=dtypes.float32) for w in (plain, weight)]
        products = [device.gemm(x, w, trans_b=True) for w in (plain, weight)]
        assert isinstance(device, CpuDevice)
        return [
            *rows,
            *products,
            device.dequantize(plain, dtype=dtypes.float16),
            device.dequantize(weight, dtype=dtypes.float16),
        ]

    return run


def paired(device: Device) -> list[Buffer]:
    weight = device.prepare_weight(floats(device, 70, E, dtype=dtypes.bfloat16), "weight")
    few, many = (floats(device, rows, E, dtype=dtypes.float16) for rows in (1, T))
    rows = device.gather_rows(weight, ids(device, 69, 0, 3), dtype=dtypes.float32)
    return [rows, device.gemm(few, weight, trans_b=True), device.gemm(many, weight, trans_b=True)]


def positions(device: Device) -> Buffer:
    tables = floats(device, 50, D // 2), floats(device, 50, D // 2)
    return device.rope(floats(device, 3, H, D), *tables, ids(device, 0, 49, 7))


def moe(device: Device) -> Buffer:
    weights = [Linear(floats(device, n, k)) for n, k in ((8, E), (96, E), (96, E), (E, 96))]
    experts = tuple(FfnWeights((weights[1], weights[2]), weights[3], "silu", is_gated=True) for _ in range(8))
    return device.moe_layer(floats(device, T, E), MoeWeights(weights[0], experts, 2, True))


CASES: dict[str, Case] = {
    "add": lambda d: d.add(floats(d, T, E), floats(d, E)),
    "add of mixed dtypes": lambda d: d.add(floats(d, T, E), floats(d, T, E, dtype=dtypes.bfloat16)),
    "activation": lambda d: d.activation(floats(d, T, E), kind="silu"),
    "gated_activation": lambda d: d._gated_activation(floats(d, T, E), kind="gelu"),
    "cast": lambda d: d.cast(floats(d, T, E), dtypes.float16),
    "rms_norm": lambda d: d.rms_norm(floats(d, T, E), floats(d, E), eps=1e-5),
    "layer_norm": lambda d: d.layer_norm(floats(d, T, E), floats(d, E), floats(d, E), eps=1e-5),
    "softmax": lambda d: d.softmax(floats(d, T, E), mask=floats(d, T, E)),
    "rope": positions,
    "gather_rows": lambda d: d.gather_rows(floats(d, T, E), ids(d, 8, 0, 3)),
    "gather_rows by int64": lambda d: d.gather_rows(floats(d, T, E), d.upload(np.arange(3), "ids")),
    "top_k": lambda d: d.top_k(floats(d, T, E), 7)[0],
    "copy": lambda d: d.upload(np.ones((T, E), np.float32)[:, ::2], "x"),
    "concat": lambda d: d.concat((floats(d, T, E), floats(d, T, E)), axis=1),
    "gemm of few rows": lambda d: d.gemm(floats(d, 3, E), floats(d, 70, E), trans_b=True),
    "gemm of many rows": lambda d: d.gemm(floats(d, T, E), floats(d, E, 70), bias=floats(d, 70)),
    "gemm of float16": lambda d: d.gemm(floats(d, T, E, dtype=dtypes.float16), floats(d, 70, E), trans_b=True),
    "gemm of a strided b": lambda d: d.gemm(floats(d, T, E), floats(d, E, 80)[:, ::2]),
    "gemm of a batch": lambda d: d.gemm(floats(d, 3, T, E), floats(d, 1, E, 70)),
    "bf16 weights": paired,
    "moe_layer": moe,
    "context_attention": attention("_context_attention"),
    "decoder_self_attention": attention("_decoder_self_attention"),
    **{scheme.name: quantized(scheme) for scheme in (Q4_0, Q4_1, Q8_0)},
}


def run_logged(device: Device, case: Case) -> tuple[list[tuple[int, str]], list[Buffer]]:
    """Sizes and tags of all that a case allocates, in order, and its results."""
    log: list[tuple[int, str]] = []
    allocate = device.arena.allocate

    def logged(nbytes: int, tag: str) -> Storage:
        log.append((nbytes, tag))
        return allocate(nbytes, tag)

    device.arena.allocate = logged
    try:
        results = case(device)
    finally:
        del device.arena.allocate
    return log, results if isinstance(results, list) else [results]


@pytest.mark.parametrize("name", CASES)
def test_a_rehearsal_allocates_the_same_and_computes_nothing(device: CpuDevice, twin: CpuDevice, name: str) -> None:
    log, results = run_logged(device, CASES[name])
    rehearsed, blanks = run_logged(twin, CASES[name])
    assert rehearsed == log
    for result, blank in zip(results, blanks, strict=True):
        assert (result.shape, result.dtype, result.strides) == (blank.shape, blank.dtype, blank.strides)
        assert np.any(result.numpy().view(np.uint8))
        assert not np.any(blank.numpy().view(np.uint8))
        assert not np.any(twin.download(blank))
    mine, theirs = device.arena.stats(), twin.arena.stats()
    assert (mine.peak_bytes, mine.peak_reach_bytes) == (theirs.peak_bytes, theirs.peak_reach_bytes)


def test_indices_are_real_ones_whatever_lay_there(twin: CpuDevice) -> None:
    stale = twin.upload(np.full(4 * T * E, -1, np.int32), "stale")
    assert np.all(twin.download(stale) == -1)
    del stale
    indices = twin.download(twin.top_k(floats(twin, T, E), 5)[1])
    np.testing.assert_array_equal(indices, np.tile(np.arange(5), (T, 1)))
    assert not np.any(twin.download(twin.alloc((T, E), dtypes.float32, "x")))
    assert moe(twin).shape == (T, E)


@pytest.mark.parametrize("scheme", [Q4_0, Q4_1, Q8_0], ids=lambda s: s.name)
def test_weights_without_memory_are_prepared_and_used(device: CpuDevice, twin: CpuDevice, scheme: QuantScheme) -> None:
    prepared = twin.prepare_weight(absent_quantized(scheme, 70, E), "weight")
    real = device.prepare_weight(device.quantize(floats(device, 70, E), scheme), "weight")
    assert isinstance(prepared, QBuffer) and prepared.layout == "rows16"
    assert prepared.nbytes == real.nbytes == twin.arena.totals()["weight"]
    x = floats(twin, T, E)
    assert twin.gemm(x, prepared, trans_b=True, bias=absent(70)).shape == (T, 70)
    assert twin.gather_rows(prepared, ids(twin, 69), dtype=dtypes.float32).shape == (1, E)
    part = twin.prepare_weight(absent_quantized(scheme, 70, E)[3:24], "weight")
    assert part.shape == (21, E)


def test_floats_without_memory_are_prepared_and_used(twin: CpuDevice) -> None:
    weight = twin.prepare_weight(absent(70, E, dtype=dtypes.bfloat16), "weight")
    assert weight.nbytes == twin.arena.totals()["weight"]
    assert twin.gather_rows(weight, ids(twin, 69)).shape == (1, E)
    x, norm = floats(twin, T, E), Norm(absent(E), 1e-5, absent(E, dtype=dtypes.bfloat16))
    assert twin.gemm(x, weight, trans_b=True, bias=absent(70)).shape == (T, 70)
    assert twin.gemm(x, absent(70, E), trans_b=True).shape == (T, 70)
    assert twin.gather_rows(absent(70, E), ids(twin, 0)).shape == (1, E)
    assert twin._add_norm(x, floats(twin, T, E), norm)[0].shape == (T, E)
    table = absent(50, D // 2)
    assert twin.rope(floats(twin, 3, H, D), table, table, ids(twin, 0, 49, 7)).shape == (3, H, D)


def test_a_rehearsal_checks_what_the_device_checks(twin: CpuDevice) -> None:
    with pytest.raises(DeviceError, match="outside its table"):
        twin.gather_rows(floats(twin, T, E), ids(twin, T))
    with pytest.raises(DeviceError, match="shapes and dtypes must be equal"):
        twin.copy(floats(twin, 3), floats(twin, 4))


def test_the_device_goes_on_beside_its_rehearsal_and_after_it(device: CpuDevice) -> None:
    def multiply(rows: int) -> np.ndarray:
        return device.download(device.gemm(floats(device, rows, E), floats(device, E, 70)))

    twin = device.rehearsal()
    held = device.arena.stats().used_bytes
    twin.gemm(floats(twin, T, E), floats(twin, E, 70))
    assert device.arena.stats().used_bytes == held
    np.testing.assert_array_equal(multiply(T), np.full((T, 70), E))
    twin.close()
    assert twin.arena.stats().used_bytes == 0
    np.testing.assert_array_equal(multiply(300), np.full((300, 70), E))


@pytest.mark.skipif(sys.platform != "linux", reason="counts in KiB")
def test_a_rehearsal_touches_no_page_of_what_is_large(twin: CpuDevice) -> None:
    shape: Shape = (1 << 20, 1024)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    weight = twin.prepare_weight(absent(*shape), "weight")
    packed = twin.prepare_weight(absent_quantized(Q8_0, *shape), "weight")
    x = twin.alloc((512, 1024), dtypes.bfloat16, "x")
    for b in (weight, packed):
        logits = twin.gemm(x, b, trans_b=True)
        twin.softmax(logits, out=logits)
    assert twin.arena.stats().peak_bytes > 6 << 30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10
