"""What a plugin says about itself before anything native loads: data only."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from rtp_core.device.op import DeclaredOverride
from rtp_core.errors import ContractError

PLUGIN_API: tuple[int, int] = (1, 0)  # (major, minor) of the contract that this core serves

DeviceClass = Literal["accelerator", "cpu", "reference"]
RANK: dict[str, int] = {"accelerator": 0, "cpu": 1, "reference": 2}  # the order in which `auto` looks


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """`api` is the plugin API that the plugin was written for: no default, so that nobody forgets it.

    `overrides` are all that the device class declares, exactly: the plan can be told without the hardware.
    `schemes` and `dtypes` are names; a weight in another scheme is dequantized by core at load.
    """

    kind: str
    vendor: str
    api: tuple[int, int]
    device_class: DeviceClass
    dtypes: tuple[str, ...]
    overrides: tuple[DeclaredOverride, ...] = ()
    schemes: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    kv_layouts: tuple[str, ...] = ("KBD",)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.kind):
            raise ContractError(
                f"bad device kind {self.kind!r}", why="expected lower case letters, digits and underscores"
            )
        if self.device_class not in RANK:
            raise ContractError(f"bad device class {self.device_class!r}", why=f"expected one of {', '.join(RANK)}")
        major_minor = self.api
        if len(major_minor) != 2 or not all(isinstance(part, int) for part in major_minor):
            raise ContractError(f"bad plugin API {major_minor!r}", why="expected (major, minor)")


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """One device that a probe found. `id` is kind:index; memory in bytes."""

    id: str
    name: str
    memory_total_bytes: int
    memory_free_bytes: int

    @property
    def index(self) -> int:
        return int(self.id.rpartition(":")[2])


@dataclass(frozen=True, slots=True)
class DeviceConfig:
    """What the user asked of a device. None: the device's own choice; `memory_budget` in bytes."""

    threads: int | None = None
    memory_budget: int | None = None
