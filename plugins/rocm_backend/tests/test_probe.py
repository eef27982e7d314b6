"""The probe over files as the kernel shows them: the devices, or one reason each with what to do about it."""

from __future__ import annotations

import errno
import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import rtp_rocm.probe
from rtp_core.device.loader import State, load_plugins
from rtp_core.plugin import DeviceConfig, DeviceError, DeviceInfo, No
from rtp_rocm.device import RocmDevice
from rtp_rocm.kfd import Version, kfd_version
from rtp_rocm.probe import probe, report
from rtp_torch.build import TorchBuild

ROCM = TorchBuild("2.9.1+rocm6.4", hip="6.4.43484")
GIB = 1 << 30


def write(path: Path, text: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def add_node(root: Path, number: int, **properties: int) -> None:
    lines = "\n".join(f"{name} {value}" for name, value in properties.items())
    write(root / f"sys/class/kfd/kfd/topology/nodes/{number}/properties", lines)


def add_gpu(root: Path, number: int, target: int, free: int, name: str = "") -> None:
    minor = 127 + number
    add_node(root, number, simd_count=304, gfx_target_version=target, drm_render_minor=minor, unique_id=0xABC0 + number)
    card = root / f"sys/class/drm/renderD{minor}/device"
    write(card / "mem_info_vram_total", 64 * GIB)
    write(card / "mem_info_vram_used", 64 * GIB - free)
    if name:
        write(card / "product_name", name)


def kfd_1_17(node: Path) -> Version:
    return 1, 17


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A processor, two GPUs and a torch for them."""
    write(tmp_path / "dev/kfd", "")
    add_node(tmp_path, 0, cpu_cores_count=64, simd_count=0)
    add_gpu(tmp_path, 2, 90402, 60 * GIB)
    add_gpu(tmp_path, 1, 90010, 63 * GIB, "AMD Instinct MI210")
    for name in ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(rtp_rocm.probe, "installed_torch", lambda: ROCM)
    return tmp_path


FIRST = "AMD Instinct MI210, gfx90a"
SECOND = "AMD gfx942, gfx942"


def test_devices_have_name_target_and_memory(root: Path) -> None:
    assert probe(root, kfd_1_17) == [
        DeviceInfo("rocm:0", FIRST, 64 * GIB, 63 * GIB),
        DeviceInfo("rocm:1", SECOND, 64 * GIB, 60 * GIB),
    ]


@pytest.mark.parametrize(
    ("variables", "names"),
    [
        ({"HIP_VISIBLE_DEVICES": "1"}, [SECOND]),
        ({"CUDA_VISIBLE_DEVICES": "1,0"}, [SECOND, FIRST]),
        ({"CUDA_VISIBLE_DEVICES": "1", "HIP_VISIBLE_DEVICES": "0"}, [FIRST]),
        ({"ROCR_VISIBLE_DEVICES": "1", "HIP_VISIBLE_DEVICES": "0"}, [SECOND]),
        ({"ROCR_VISIBLE_DEVICES": "GPU-000000000000abc2"}, [SECOND]),
        ({"HIP_VISIBLE_DEVICES": "0,7,1"}, [FIRST]),
    ],
)
def test_the_environment_chooses_as_rocm_reads_it(
    variables: dict[str, str], names: list[str], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = probe(root, kfd_1_17)
    assert isinstance(found, list)
    assert [(device.id, device.name) for device in found] == [(f"rocm:{i}", name) for i, name in enumerate(names)]


def refused(root: Path, reason: str, version_of: Callable[[Path], Version] = kfd_1_17) -> None:
    found = probe(root, version_of)
    assert isinstance(found, No)
    assert re.search(reason, found.reason), found.reason


def test_no_hardware(tmp_path: Path) -> None:
    refused(tmp_path, "no AMD GPU with a compute driver: there is no /dev/kfd")
    write(tmp_path / "dev/kfd", "")
    refused(tmp_path, "AMD's compute driver sees no GPU; rocminfo")


def test_hidden_hardware(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "")
    refused(root, r"all 2 GPUs are hidden; echo \$ROCR_VISIBLE_DEVICES \$HIP_VISIBLE_DEVICES")


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.EACCES, r"/dev/kfd is not open to this user; sudo usermod -aG render,video \$USER"),
        (errno.EPERM, "/dev/kfd is closed to this process; give its container --device /dev/kfd"),
        (errno.ENODEV, r"/dev/kfd does not answer: No such device; sudo dmesg \| grep kfd"),
    ],
)
def test_a_driver_that_does_not_answer(number: int, reason: str, root: Path) -> None:
    def failing(node: Path) -> Version:
        assert node == root / "dev/kfd"
        raise OSError(number, os.strerror(number))

    refused(root, reason, failing)
    assert report(root, failing)["kfd"] == f"none ({os.strerror(number)})"


def make_file(node: Path) -> None:
    node.write_bytes(b"\1\0\0\0\21\0\0\0")


def make_null(node: Path) -> None:
    node.symlink_to("/dev/null")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (make_file, "/dev/kfd is not AMD's compute driver; ls -l /dev/kfd"),
        (make_null, "/dev/kfd is not AMD's compute driver; ls -l /dev/kfd"),
        (os.mkfifo, "/dev/kfd is not AMD's compute driver; ls -l /dev/kfd"),
        (Path.mkdir, "/dev/kfd does not answer: Is a directory; sudo dmesg"),
    ],
)
def test_a_node_that_is_something_else(make: Callable[[Path], None], reason: str, root: Path) -> None:
    node = root / "dev/kfd"
    node.unlink()
    make(node)
    refused(root, reason, kfd_version)
    assert report(root)["kfd"].startswith("none (I")


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        (
            (0, 99),
            "driver is too old: its interface is 0.99, ROCm's 1; update the kernel, or AMD's driver: sudo amdgpu",
        ),
        ((2, 0), "driver is too new: its interface is 2.0, ROCm's 1; pip install --force-reinstall torch .*rocm"),
    ],
)
def test_a_driver_of_another_version(version: Version, reason: str, root: Path) -> None:
    refused(root, f"^AMD's compute {reason}", lambda node: version)
    assert report(root, lambda node: version)["kfd"] == f"{version[0]}.{version[1]}"


def test_the_version_is_asked_as_linux_defines_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ioctl(opened: int, request: int, argument: bytes) -> bytes:
        assert os.path.samestat(os.fstat(opened), (root / "dev/kfd").stat())
        asked.append((request >> 30, request >> 16 & 0x3FFF, chr(request >> 8 & 0xFF), request & 0xFF))
        assert len(argument) == 8
        return struct.pack("=II", 1, 17)

    asked: list[tuple[int, int, str, int]] = []
    monkeypatch.setattr("fcntl.ioctl", ioctl)
    assert kfd_version(root / "dev/kfd") == (1, 17)
    assert asked == [(2, 8, "K", 1)], "read, two uint32, of kfd, its first"


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (None, "torch is not installed; pip install --force-reinstall torch --index-url .*rocm"),
        (TorchBuild("2.13.0", cuda="13.0"), "torch 2.13.0, built for CUDA 13.0, cannot use a GPU of AMD; pip install"),
        (replace(ROCM, has_triton=False), "triton, which compiles the kernels, is not installed .*; pip install"),
        (TorchBuild("2.13.0+cpu"), r"torch 2.13.0\+cpu, built for no GPU, cannot use a GPU of AMD; pip install"),
    ],
)
def test_a_torch_that_does_not_fit(
    build: TorchBuild | None, reason: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rtp_rocm.probe, "installed_torch", lambda: build)
    refused(root, reason)


def test_no_free_memory(root: Path) -> None:
    add_gpu(root, 1, 90010, 5 << 20)
    assert isinstance(probe(root, kfd_1_17), list), "the other one has room"
    add_gpu(root, 2, 90402, 6 << 20)
    refused(root, "no memory is free: rocm:0 has 5 of 65536 MiB, rocm:1 has 6 of 65536 MiB; rocm-smi --show")


@pytest.mark.parametrize("has_node", [False, True])
def test_without_the_hardware_it_takes_milliseconds_and_imports_no_torch_and_no_arithmetic(
    has_node: bool, tmp_path: Path
) -> None:
    if has_node:
        write(tmp_path / "dev/kfd", "")
    code = (
        "import sys, time; from pathlib import Path; from rtp_rocm.probe import probe; start = time.perf_counter();"
        f"found = probe(Path({str(tmp_path)!r})); took = time.perf_counter() - start;"
        "assert not found; assert took < 0.1, took; assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_report_says_which_driver_there_is(root: Path) -> None:
    assert report(root)["driver"] == "none"
    (root / "sys/module/amdgpu").mkdir(parents=True)
    assert report(root)["driver"] == "the kernel's own"
    write(root / "sys/module/amdgpu/version", "6.12.12")
    assert report(root)["driver"] == "6.12.12"
    assert report(root)["GPUs"] == "AMD Instinct MI210 (gfx90a), AMD gfx942 (gfx942)"


def test_the_plugin_says_why_it_is_not_available() -> None:
    (plugin,) = load_plugins("rocm")
    if plugin.state is State.AVAILABLE:
        pytest.skip("this machine has an AMD GPU")
    assert plugin.state is State.UNAVAILABLE
    assert plugin.reason
    assert set(report()) >= {"GPUs", "torch"}
    with pytest.raises(DeviceError, match=r"torch .* cannot compute on GPU 0: .+rtp env"):
        RocmDevice(DeviceInfo("rocm:0", "none", GIB, GIB), DeviceConfig())
