import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from rtp_core.device.loader import State, load_plugins
from rtp_core.device.opening import open_device
from rtp_core.plugin import ConfigError, Device, DeviceConfig
from rtp_cpu.isa import ISAS, available_isas, chosen_isa
from rtp_cpu.processor import usable_threads

SMALL = 16 << 20  # bytes


def test_importing_the_plugin_loads_nothing_native_and_no_arithmetic() -> None:
    code = "import sys, rtp_cpu.plugin; sys.exit(bool({'rtp_cpu._native', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_plugin_is_available_and_names_its_instruction_set() -> None:
    (plugin,) = load_plugins("cpu")
    assert plugin.state is State.AVAILABLE, plugin.reason
    assert plugin.devices[0].name.endswith(chosen_isa())


def test_the_manifest_tells_the_overrides_of_the_device() -> None:
    device = open_device("cpu", DeviceConfig(threads=1, memory_budget=SMALL))
    assert {o.declared for o in device.overrides} == set(device.manifest.overrides)
    device.close()
    device.close()


@pytest.mark.parametrize("isa", available_isas())
def test_the_environment_forces_an_instruction_set(monkeypatch: pytest.MonkeyPatch, isa: str) -> None:
    monkeypatch.setenv("RTP_CPU_ISA", isa)
    assert chosen_isa() == isa


def test_an_unknown_instruction_set_is_an_error_that_names_the_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTP_CPU_ISA", "mmx")
    with pytest.raises(ConfigError, match=r"RTP_CPU_ISA is 'mmx': there is no such.*portable"):
        chosen_isa()
    (plugin,) = load_plugins("cpu")
    assert plugin.state is State.BROKEN
    assert "mmx" in plugin.reason


def test_an_instruction_set_that_the_machine_lacks_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rtp_cpu.isa.available_isas", lambda: ("portable",))
    monkeypatch.setenv("RTP_CPU_ISA", list(ISAS)[-1])
    with pytest.raises(ConfigError, match="does not support it"):
        chosen_isa()


def test_threads_are_counted_and_checked() -> None:
    assert 1 <= usable_threads() <= (os.cpu_count() or 1)
    with pytest.raises(ConfigError, match="threads is 0"):
        open_device("cpu", DeviceConfig(threads=0, memory_budget=SMALL))


def norm_of(device: Device, x: np.ndarray) -> np.ndarray:
    weight = device.upload(np.ones(x.shape[1], np.float32), "weight")
    return device.download(device.rms_norm(device.upload(x, "x"), weight, eps=0.0))


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_results_do_not_depend_on_the_number_of_threads(rng: np.random.Generator, threads: int) -> None:
    x = rng.standard_normal((300, 257)).astype(np.float32)
    results = []
    for count in (1, threads):
        device = open_device("cpu", DeviceConfig(threads=count, memory_budget=SMALL))
        results.append(norm_of(device, x))
        device.close()
    np.testing.assert_array_equal(*results)


def test_threads_of_the_caller_take_turns(rng: np.random.Generator) -> None:
    device = open_device("cpu", DeviceConfig(threads=3, memory_budget=SMALL))
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
    device = open_device("cpu", DeviceConfig(threads=4, memory_budget=SMALL))
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
