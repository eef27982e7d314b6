"""The probe over a driver library of our own: the devices, or one reason each with what to do about it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rtp_core.device.loader import State, load_plugins
from rtp_core.plugin import DeviceConfig, DeviceError, DeviceInfo, No
from rtp_cuda.device import CudaDevice
from rtp_cuda.driver import Driver
from rtp_cuda.probe import probe, report
from rtp_torch.build import TorchBuild

CUDA_13 = TorchBuild("2.13.0", cuda="13.0")
Torch = Callable[[TorchBuild | None], None]


def test_devices_have_name_capability_and_memory(library: str, torch_is: Torch) -> None:
    torch_is(CUDA_13)
    assert probe(library=library) == [
        DeviceInfo("cuda:0", "Fake H100, sm_90", 80 << 30, 70000 << 20),
        DeviceInfo("cuda:1", "Fake A100, sm_80", 80 << 30, 70000 << 20),
    ]


@pytest.mark.parametrize(
    ("variables", "build", "reason"),
    [
        ({"FAKE_INIT": "100"}, CUDA_13, r"NVIDIA's driver sees no GPU"),
        ({"FAKE_INIT": "999"}, CUDA_13, r"cuInit failed with 999: unknown error; nvidia-smi"),
        ({"FAKE_INIT": "803"}, CUDA_13, r"cuInit failed with 803: an unknown error; nvidia-smi"),
        ({"FAKE_COUNT": "0"}, CUDA_13, r"shows no GPU to this process; echo \$CUDA_VISIBLE_DEVICES"),
        ({"FAKE_CONTEXT": "46"}, CUDA_13, r"cuDevicePrimaryCtxRetain failed with 46: all devices are busy; nvidia-smi"),
        ({}, None, r"torch is not installed; pip install --force-reinstall torch"),
        ({}, TorchBuild("2.13.0+cpu"), r"torch 2.13.0\+cpu, built for no GPU, cannot use a GPU of NVIDIA; pip install"),
        (
            {},
            replace(CUDA_13, has_triton=False),
            "triton, which compiles the kernels, is not installed .*; pip",
        ),
        ({}, TorchBuild("2.9.1+rocm6.4", hip="6.4.43484"), r"built for ROCm 6.4.43484, cannot use a GPU of NVIDIA"),
        ({"FAKE_VERSION": "12040"}, CUDA_13, r"too old: it serves CUDA 12.4, torch 2.13.0 needs 13.0; .*/cu126$"),
        ({"FAKE_VERSION": "10020"}, CUDA_13, r"too old: it serves CUDA 10.2, .*; update the driver$"),
        ({"FAKE_FREE_MIB": "12"}, CUDA_13, r"no memory is free: cuda:0 has 12 of 81920 MiB, .*; nvidia-smi shows who"),
    ],
)
def test_each_reason_has_its_next_command(
    variables: dict[str, str],
    build: TorchBuild | None,
    reason: str,
    library: str,
    torch_is: Torch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    torch_is(build)
    found = probe(library=library)
    assert isinstance(found, No)
    assert re.search(reason, found.reason), found.reason


def test_a_driver_serves_every_cuda_of_its_major_version(
    library: str, torch_is: Torch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_VERSION", "12000")
    torch_is(TorchBuild("2.9.1+cu128", cuda="12.8"))
    assert isinstance(probe(library=library), list)
    assert Driver(library).version == (12, 0)


@pytest.mark.parametrize(
    ("pci_class", "reason"),
    [("0x030200", "an NVIDIA GPU is there (PCI 0000:01:00.0) without its driver"), ("0x040300", "no NVIDIA GPU, and")],
)
def test_without_the_library_the_bus_tells_whether_a_driver_is_missing(
    pci_class: str, reason: str, tmp_path: Path
) -> None:
    device = tmp_path / "sys/bus/pci/devices/0000:01:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x10de\n")
    (device / "class").write_text(pci_class + "\n")
    found = probe(tmp_path, "libno-such-cuda.so.1")
    assert isinstance(found, No)
    assert found.reason.startswith(reason)


def test_without_the_hardware_it_takes_milliseconds_and_imports_no_torch_and_no_arithmetic(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from rtp_cuda.probe import probe; start = time.perf_counter();"
        f"found = probe(Path({str(tmp_path)!r}), 'libno-such-cuda.so.1'); took = time.perf_counter() - start;"
        "assert not found; assert took < 0.1, took; assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_plugin_says_why_it_is_not_available() -> None:
    (plugin,) = load_plugins("cuda")
    if plugin.state is State.AVAILABLE:
        pytest.skip("this machine has an NVIDIA GPU")
    assert plugin.state is State.UNAVAILABLE
    assert plugin.reason
    assert set(report()) >= {"driver's CUDA", "torch"}


def test_a_torch_that_cannot_compute_there_is_an_error_that_says_so() -> None:
    (plugin,) = load_plugins("cuda")
    if plugin.state is State.AVAILABLE:
        pytest.skip("this machine has an NVIDIA GPU")
    with pytest.raises(DeviceError, match=r"torch .* cannot compute on GPU 0: .+rtp env"):
        CudaDevice(DeviceInfo("cuda:0", "none", 1 << 30, 1 << 30), DeviceConfig())
