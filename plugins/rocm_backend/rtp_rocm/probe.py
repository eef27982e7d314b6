"""Which AMD GPUs there are, or the one reason why none can be used and what to do about it."""

from __future__ import annotations

import os
from pathlib import Path

from rtp_core.plugin import DeviceInfo, No
from rtp_rocm.kfd import VersionOf, kfd_version, refusal, version_problem, version_text
from rtp_rocm.topology import driver_version, gpu_nodes, visible
from rtp_torch.build import installed_torch
from rtp_torch.probing import build_problem, environment, memory_problem, told

_INSTALL = "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/rocm6.4"
_VARIABLES = ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", "HSA_OVERRIDE_GFX_VERSION")


def probe(root: Path = Path("/"), version_of: VersionOf = kfd_version) -> list[DeviceInfo] | No:
    node = root / "dev/kfd"
    if not node.exists():
        return No("no AMD GPU with a compute driver: there is no /dev/kfd")
    try:
        version = version_of(node)
    except OSError as error:
        return No(refusal(error))
    if problem := version_problem(version, _INSTALL):
        return No(problem)
    nodes = gpu_nodes(root)
    if not nodes:
        return No("AMD's compute driver sees no GPU; rocminfo")
    left = visible(nodes, os.environ)
    if not left:
        return No(f"all {len(nodes)} GPUs are hidden; echo $ROCR_VISIBLE_DEVICES $HIP_VISIBLE_DEVICES")
    build = installed_torch()
    if problem := build_problem(build, build.hip if build else None, "AMD", _INSTALL):
        return No(problem)
    infos = [
        DeviceInfo(f"rocm:{i}", f"{gpu.name}, {gpu.target}", gpu.total_bytes, gpu.free_bytes)
        for i, gpu in enumerate(left)
    ]
    problem = memory_problem(infos, "rocm-smi --showmeminfo vram")
    return No(problem) if problem else infos


def report(root: Path = Path("/"), version_of: VersionOf = kfd_version) -> dict[str, str]:
    """For `rtp env`."""
    nodes = ", ".join(f"{node.name} ({node.target})" for node in gpu_nodes(root))
    return {
        "GPUs": nodes or "none",
        "driver": driver_version(root),
        "kfd": _version(root / "dev/kfd", version_of),
        "torch": told(installed_torch()),
        **environment(_VARIABLES),
    }


def _version(node: Path, version_of: VersionOf) -> str:
    try:
        return version_text(version_of(node))
    except OSError as error:
        return f"none ({error.strerror or error})"
