"""AMD's GPUs as the kernel shows them under /sys: no library is asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Node:
    """One GPU of the kernel's compute driver (kfd). `uuid` is what ROCR_VISIBLE_DEVICES may name it by."""

    name: str
    target: str  # gfx90a
    uuid: str
    total_bytes: int
    free_bytes: int


def gpu_nodes(root: Path) -> list[Node]:
    """In the order in which ROCm counts them."""
    folder = root / "sys/class/kfd/kfd/topology/nodes"
    numbers = sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal())
    return list(_gpus(root, [folder / str(number) for number in numbers]))


def driver_version(root: Path) -> str:
    """Of AMD's own driver; the one that comes with the kernel has none."""
    if not (root / "sys/module/amdgpu").exists():
        return "none"
    return _text(root / "sys/module/amdgpu/version") or "the kernel's own"


def visible(nodes: Sequence[Node], environment: Mapping[str, str]) -> list[Node]:
    """Those that the environment leaves: ROCR_VISIBLE_DEVICES first, then HIP's variable among what that has left."""
    left = _chosen(nodes, environment.get("ROCR_VISIBLE_DEVICES"))
    return _chosen(left, environment.get("HIP_VISIBLE_DEVICES", environment.get("CUDA_VISIBLE_DEVICES")))


def _gpus(root: Path, folders: Sequence[Path]) -> Iterator[Node]:
    for folder in folders:
        try:
            properties = _properties(folder / "properties")
        except PermissionError:  # of a container that was given other GPUs
            continue
        if int(properties.get("simd_count", "0")):  # a processor has none
            card = root / "sys/class/drm" / f"renderD{properties['drm_render_minor']}" / "device"
            target = _target(int(properties["gfx_target_version"]))
            total, used = (_number(card / f"mem_info_vram_{what}") for what in ("total", "used"))
            uuid = f"GPU-{int(properties.get('unique_id', '0')):016x}"
            yield Node(_text(card / "product_name") or f"AMD {target}", target, uuid, total, max(0, total - used))


def _chosen(nodes: Sequence[Node], names: str | None) -> list[Node]:
    """As ROCm reads such a list: it ends with the first name that means nothing."""
    if names is None:
        return list(nodes)
    chosen: list[Node] = []
    for name in names.split(","):
        found = [node for i, node in enumerate(nodes) if name.strip().lower() in (str(i), node.uuid.lower())]
        if not found:
            break
        chosen += found
    return chosen


def _target(version: int) -> str:
    """90010 is gfx90a: major, minor, stepping, the last two in hexadecimal."""
    return f"gfx{version // 10000}{version // 100 % 100:x}{version % 100:x}"


def _properties(path: Path) -> dict[str, str]:
    pairs = (line.split(maxsplit=1) for line in path.read_text(encoding="ascii").splitlines())
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip() if path.exists() else ""


def _number(path: Path) -> int:
    return int(_text(path) or 0)
