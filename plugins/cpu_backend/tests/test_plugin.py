import os
import subprocess
import sys

import pytest

from rtp_core.device.loader import State, load_plugins
from rtp_core.device.opening import open_device
from rtp_core.plugin import ConfigError, DeviceConfig
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


@pytest.mark.parametrize("isa", ISAS)
def test_the_environment_forces_an_instruction_set(monkeypatch: pytest.MonkeyPatch, isa: str) -> None:
    monkeypatch.setenv("RTP_CPU_ISA", isa)
    if isa in available_isas():
        assert chosen_isa() == isa
        return
    with pytest.raises(ConfigError, match=f"RTP_CPU_ISA is '{isa}': this machine does not support it"):
        chosen_isa()


def test_the_best_instruction_set_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RTP_CPU_ISA", raising=False)
    assert tuple(ISAS) == ("portable", "dotprod", "avx2", "avxvnni", "avx512", "avx512bf16")
    assert available_isas()[0] == "portable"
    assert chosen_isa() == available_isas()[-1]


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
