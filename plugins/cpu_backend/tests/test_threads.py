"""The pool as Python sees it: neither the number of threads changes a result, nor do callers and devices beside."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from rtp_core.device.opening import open_device
from rtp_core.plugin import Q4_0, Device, DeviceConfig

SMALL = 16 << 20  # bytes


def norm_of(device: Device, x: np.ndarray) -> np.ndarray:
    weight = device.upload(np.ones(x.shape[1], np.float32), "weight")
    return device.download(device.rms_norm(device.upload(x, "x"), weight, eps=0.0))


def products_of(device: Device, x: np.ndarray) -> list[np.ndarray]:
    """Products of x with itself: of floats, and with quantized weights, of many rows and of one."""
    a, quantized = device.upload(x, "x"), device.prepare_weight(device.quantize(device.upload(x, "x"), Q4_0), "weight")
    results = (device.gemm(rows, b, trans_b=True) for b in (a, quantized) for rows in (a, a[:1]))
    return [device.download(result) for result in results]


def opened(threads: int | None) -> Device:
    return open_device("cpu", DeviceConfig(threads=threads, memory_budget=SMALL))


@pytest.mark.parametrize("threads", [2, 7, 4 * (os.cpu_count() or 1)])
def test_results_do_not_depend_on_the_number_of_threads(rng: np.random.Generator, threads: int) -> None:
    x = rng.standard_normal((300, 256)).astype(np.float32)
    results = []
    for count in (1, threads):
        device = opened(count)
        results.append([norm_of(device, x), *products_of(device, x)])
        device.close()
    for alone, together in zip(*results, strict=True):
        np.testing.assert_array_equal(alone, together)


ON_ONE_CORE = """
import os, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import numpy as np
from rtp_core.device.opening import open_device
from rtp_core.plugin import DeviceConfig
from rtp_cpu.processor import usable_threads
assert usable_threads() == 1
x = np.random.default_rng(7).standard_normal((200, 100)).astype(np.float32)
for threads in (None, 1, 4):
    device = open_device("cpu", DeviceConfig(threads=threads, memory_budget=16 << 20))
    a = device.upload(x, "x")
    for _ in range(20):
        y = device.download(device.gemm(a, a, trans_b=True))
    np.testing.assert_allclose(y, x @ x.T, atol=1e-3)
    assert device._native.threads == (threads or 1)
    del a
    device.close()
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity masks")
def test_a_process_that_may_use_one_core_computes_on_it() -> None:
    done = subprocess.run([sys.executable, "-c", ON_ONE_CORE], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_two_devices_compute_side_by_side(rng: np.random.Generator) -> None:
    inputs = [rng.standard_normal((120, 128)).astype(np.float32) for _ in range(2)]
    results: list[list[np.ndarray]] = [[], []]
    devices = [opened(3), opened(2)]

    def compute(place: int) -> None:
        for _ in range(20):
            results[place] = products_of(devices[place], inputs[place])

    callers = [threading.Thread(target=compute, args=(i,)) for i in range(2)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    for x, device, got in zip(inputs, devices, results, strict=True):
        device.close()
        alone = opened(1)
        for result, expected in zip(got, products_of(alone, x), strict=True):
            np.testing.assert_array_equal(result, expected)
        alone.close()


def test_threads_of_the_caller_take_turns(rng: np.random.Generator) -> None:
    device = opened(3)
    x, y = (device.upload(rng.standard_normal((200, 300)).astype(np.float32), "x") for _ in range(2))
    outs = [device.alloc((200, 200), x.dtype, "out") for _ in range(4)]

    def multiply(out: int) -> None:
        for _ in range(20):
            device.gemm(x, y, trans_b=True, out=outs[out])

    callers = [threading.Thread(target=multiply, args=(i,)) for i in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    expected = device.gemm(x, y, trans_b=True).numpy()
    for out in outs:
        np.testing.assert_array_equal(out.numpy(), expected)
    device.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_computes_on_its_own_thread(rng: np.random.Generator) -> None:
    device = opened(4)
    x = rng.standard_normal((300, 257)).astype(np.float32)
    expected = norm_of(device, x)
    child = os.fork()
    if child == 0:
        is_equal = np.array_equal(norm_of(device, x), expected)
        device.close()
        os._exit(0 if is_equal else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    np.testing.assert_array_equal(norm_of(device, x), expected)
    device.close()
