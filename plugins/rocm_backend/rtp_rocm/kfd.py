"""The kernel's compute driver (kfd): the version of its interface, and what keeps ROCm from using it."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from errno import EACCES, ENOTTY, EPERM
from pathlib import Path

MAJOR = 1  # the one that ROCm's runtime speaks
_NEWER_DRIVER = "update the kernel, or AMD's driver: sudo amdgpu-install --usecase=dkms"
_GET_VERSION = 0x80084B01  # AMDKFD_IOC_GET_VERSION: _IOR('K', 1, two uint32)
_REFUSALS = {
    EACCES: "/dev/kfd is not open to this user; sudo usermod -aG render,video $USER, and log in again",
    EPERM: "/dev/kfd is closed to this process; give its container --device /dev/kfd --device /dev/dri",
    ENOTTY: "/dev/kfd is not AMD's compute driver; ls -l /dev/kfd",
}

Version = tuple[int, int]  # (major, minor)
VersionOf = Callable[[Path], Version]  # raises OSError


def kfd_version(node: Path) -> Version:
    """Raises OSError where the node cannot be opened, or is something else. Source: linux/kfd_ioctl.h."""
    import fcntl  # which only Unix has, and only there is such a node

    opened = os.open(node, os.O_RDWR)  # as the runtime opens it
    try:
        answer = fcntl.ioctl(opened, _GET_VERSION, bytes(8))
    finally:
        os.close(opened)
    major, minor = struct.unpack("=II", answer)
    return major, minor


def refusal(error: OSError) -> str:
    """Why a driver that gives no version cannot be used."""
    known = _REFUSALS.get(error.errno or 0)
    return known or f"/dev/kfd does not answer: {error.strerror or error}; sudo dmesg | grep kfd"


def version_problem(version: Version, newer_torch: str) -> str:
    """Why ROCm cannot use a driver of that version; or nothing. `newer_torch` is the command for one.

    Source: ROCm/rocm-systems, projects/rocr-runtime (August 2025): `hsakmt_init_kfd_version` refuses every other major
    version. No minor one is refused; below 1.4 the runtime leaves out gfx906 alone (`DiscoverGpu`).
    """
    if version[0] == MAJOR:
        return ""
    how, remedy = ("old", _NEWER_DRIVER) if version[0] < MAJOR else ("new", newer_torch)
    return f"AMD's compute driver is too {how}: its interface is {version_text(version)}, ROCm's {MAJOR}; {remedy}"


def version_text(version: Version) -> str:
    return ".".join(map(str, version))
