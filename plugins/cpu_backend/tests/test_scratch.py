import gc
import weakref

import numpy as np
import pytest
from cpu_oracle import batch_of

from rtp_core.plugin import HOST, Buffer, Device, DeviceConfig, DeviceInfo, OutOfMemoryError, Storage, dtypes
from rtp_cpu.device import CpuDevice
from rtp_cpu.scratch import TAG

SMALL = 4 << 20  # bytes


def opened(threads: int) -> CpuDevice:
    info = DeviceInfo("cpu:0", "portable", SMALL, SMALL)
    return CpuDevice(info, DeviceConfig(threads=threads, memory_budget=SMALL), "portable")


def multiply(device: Device, rows: int) -> Buffer:
    """A product of bfloat16, which takes its rows as float32 in between: [rows, 4]."""
    a = device.alloc((rows, 256), dtypes.bfloat16, "a")
    return device.gemm(a, device.alloc((4, 256), dtypes.bfloat16, "b"), trans_b=True)


def blocks(device: Device) -> list[tuple[int, int]]:
    """Address and bytes of what is held for the kernels."""
    moment = device.arena.moment("now")
    assert moment is not None
    return [(address, held.nbytes) for address, held in moment.held.items() if held.lifetime == "private"]


def test_scratch_is_one_private_block_that_grows_and_goes_back(device: CpuDevice) -> None:
    assert blocks(device) == []
    multiply(device, 64)
    (first,) = blocks(device)
    multiply(device, 1)
    assert blocks(device) == [first]  # smaller calls do with it
    multiply(device, 640)
    (second,) = blocks(device)
    assert second[1] >= first[1] + 576 * 256 * 4
    assert sum(second) == sum(first) == device.arena.span[1]  # at the far end, over the one before
    stats = device.arena.stats()
    assert device.arena.totals() == {TAG: second[1]}
    assert (stats.private_bytes, stats.public_bytes) == (second[1], 0)
    device.arena.reset_peak()
    multiply(device, 640)
    assert blocks(device) == [second]
    device.close()
    device.close()
    assert device.arena.stats().used_bytes == 0


def test_threads_have_parts_of_their_own() -> None:
    sizes = []
    for threads in (1, 3):
        device = opened(threads)
        device.top_k(device.alloc((1, 4096), dtypes.float32, "x"), 4096)
        sizes.append(device.arena.totals()[TAG])
        device.close()
    assert sizes[1] == 3 * sizes[0]


@pytest.mark.parametrize(
    ("op", "most", "fewer"),
    [
        ("_decoder_self_attention", [1] * 16, [[1] * n for n in range(1, 16)]),
        ("_context_attention", [6] * 16, [[81] + [1] * 15, [96]]),
        ("_context_attention", [384, 384], [[384, 383], [192, 192], [384]]),  # fewer tokens may have more tiles
    ],
    ids=["decode", "context", "large tiles"],
)
def test_no_step_takes_more_than_the_one_with_most_tokens_and_requests(
    device: CpuDevice, op: str, most: list[int], fewer: list[list[int]]
) -> None:
    held = []
    for queries in [most, *fewer]:
        num_decode = len(queries) if op == "_decoder_self_attention" else 0
        batch = batch_of(device, queries, [600] * len(queries), num_decode, 32)
        kv = device.alloc((19 * len(queries), 2, 2, 32, 16), dtypes.float32, "kv")
        q = device.alloc((sum(queries), 6, 16), dtypes.float32, "q")
        getattr(device, op)(q, kv, batch, scale=1.0)
        held.append(device.arena.totals()[TAG])
    assert held == held[:1] * len(held)


def test_scratch_that_does_not_fit_is_an_error_with_the_table_and_no_end(device: CpuDevice) -> None:
    multiply(device, 64)
    wall = device.arena.allocate(device.arena.stats().largest_hole_bytes - (2 << 20), "wall")
    with pytest.raises(OutOfMemoryError, match=f"for '{TAG}'.*most is held by wall") as failure:
        multiply(device, 2000)
    assert failure.value.arena is device.arena
    assert "wall" in failure.value.table
    assert blocks(device) == []
    del failure
    gc.collect()  # the traceback holds the operands
    multiply(device, 64)
    assert len(blocks(device)) == 1
    wall.free()
    multiply(device, 2000)
    device.arena.check_integrity()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_any_error_on_the_way_to_scratch_is_raised_by_the_op(
    device: CpuDevice, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], error: type[BaseException]
) -> None:
    def exchange(nbytes: int) -> int:
        raise error

    x = device.upload(np.array([[2, 3, 1]], np.float32), "x")
    with monkeypatch.context() as patch:
        patch.setattr(device._native._scratch, "exchange", exchange)
        with pytest.raises(error):
            device.top_k(x, 2)
    assert capfd.readouterr().err == ""
    np.testing.assert_array_equal(device.top_k(x, 2)[1].numpy(), [[1, 0]])


def test_scratch_beyond_any_memory_is_out_of_memory(device: CpuDevice) -> None:
    a, b = (Buffer(Storage(HOST, 0, 0, "none"), dtypes.float32, (rows, 1 << 55)) for rows in (5, 1))
    with pytest.raises(OutOfMemoryError, match="exceeds any memory in gemm"):
        device.gemm(a, b, trans_b=True)


def test_a_device_that_is_dropped_takes_its_arena_with_it() -> None:
    gc.disable()
    try:
        device = opened(2)
        multiply(device, 8)
        arena = weakref.ref(device.arena)
        del device
        assert arena() is None
    finally:
        gc.enable()
