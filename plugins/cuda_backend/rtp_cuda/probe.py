"""Which NVIDIA GPUs there are, or the one reason why none can be used and what to do about it."""

from __future__ import annotations

from pathlib import Path

from rtp_core.plugin import DeviceInfo, No
from rtp_cuda.driver import LIBRARY, NO_DEVICE, Driver, DriverError
from rtp_torch.build import TorchBuild, installed_torch
from rtp_torch.probing import build_problem, environment, memory_problem, told

_VENDOR = "0x10de"
_KINDS = ("0x03", "0x12")  # displays and accelerators, as PCI classes them
_WHEELS = "https://download.pytorch.org/whl"
_OLDER_TORCH = {11: "cu118", 12: "cu126"}  # by the major version of CUDA that a driver serves
_VARIABLES = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "PYTORCH_CUDA_ALLOC_CONF")


def probe(root: Path = Path("/"), library: str = LIBRARY) -> list[DeviceInfo] | No:
    try:
        driver = Driver(library)
    except OSError as error:
        return No(_without_driver(_on_the_bus(root), error))
    except DriverError as error:
        if error.code == NO_DEVICE:
            return No("NVIDIA's driver sees no GPU (CUDA_VISIBLE_DEVICES hides some)")
        return No(f"NVIDIA's driver cannot be used: {error}; nvidia-smi")
    build = installed_torch()
    problem = build_problem(build, build.cuda if build else None, "NVIDIA", "pip install --force-reinstall torch")
    if problem or build is None:
        return No(problem)
    if problem := _version_problem(driver.version, build):
        return No(problem)
    return _devices(driver)


def _devices(driver: Driver) -> list[DeviceInfo] | No:
    try:
        found = driver.devices()
    except DriverError as error:
        return No(f"a GPU cannot be used: {error}; nvidia-smi")
    if not found:
        return No("NVIDIA's driver shows no GPU to this process; echo $CUDA_VISIBLE_DEVICES")
    infos = [
        DeviceInfo(f"cuda:{i}", f"{d.name}, sm_{d.capability[0]}{d.capability[1]}", d.total_bytes, d.free_bytes)
        for i, d in enumerate(found)
    ]
    problem = memory_problem(infos, "nvidia-smi")
    return No(problem) if problem else infos


def _without_driver(on_the_bus: str, error: OSError) -> str:
    if on_the_bus:
        return f"an NVIDIA GPU is there (PCI {on_the_bus}) without its driver: {error}; install NVIDIA's driver"
    return "no NVIDIA GPU, and no driver for one"


def _on_the_bus(root: Path) -> str:
    for device in sorted((root / "sys/bus/pci/devices").glob("*")):
        if _read(device / "vendor") == _VENDOR and _read(device / "class").startswith(_KINDS):
            return device.name
    return ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:  # the device left, or is not ours to look at
        return ""


def _version_problem(served: tuple[int, int], build: TorchBuild) -> str:
    """A driver serves every CUDA of its own major version, and older ones."""
    wanted = build.cuda or ""
    if served[0] >= int(wanted.partition(".")[0]):
        return ""
    why = f"NVIDIA's driver is too old: it serves CUDA {served[0]}.{served[1]}, torch {build.version} needs {wanted}"
    older = _OLDER_TORCH.get(served[0])
    other = f", or pip install --force-reinstall torch --index-url {_WHEELS}/{older}" if older else ""
    return f"{why}; update the driver{other}"


def report() -> dict[str, str]:
    """For `rtp env`."""
    try:
        version = ".".join(map(str, Driver().version))
    except (OSError, DriverError) as error:
        version = f"none ({error})"
    return {"driver's CUDA": version, "torch": told(installed_torch()), **environment(_VARIABLES)}
