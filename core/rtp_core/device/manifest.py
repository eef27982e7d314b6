"""What a plugin says about itself before anything native loads: data only."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypeVar

from rtp_core.device.op import DeclaredOverride
from rtp_core.errors import ContractError

PLUGIN_API: tuple[int, int] = (1, 1)  # (major, minor) of the contract that this core serves

DeviceClass = Literal["accelerator", "cpu", "reference"]
RANK: dict[str, int] = {"accelerator": 0, "cpu": 1, "reference": 2}  # the order in which `auto` looks

RESERVED_KINDS = frozenset({"all", "auto", "meta"})  # words that `--device` means something else by, or may
UNKNOWN_OP = "unknown"  # of an override that a manifest of API 0 names without its op
M = TypeVar("M", bound=type)


def incompatibility(api: tuple[int, int], core: tuple[int, int] = PLUGIN_API) -> str:
    """Why a core of API `core` cannot serve a plugin of this API, or nothing: its own major and the one before."""
    if api[0] == core[0] - 1 or (api[0] == core[0] and api[1] <= core[1]):
        return ""
    age = "newer" if api > core else "older"
    return f"it needs plugin API {api[0]}.{api[1]}, {age} than this core's {core[0]}.{core[1]}"


def kind_problem(kind: str) -> str:
    """Why no device can be called so, or nothing."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", kind):
        return f"bad device kind {kind!r}: expected lower case letters, digits and underscores"
    return f"the kind {kind!r} is reserved" if kind in RESERVED_KINDS else ""


def _keeps_unknown_fields(cls: M) -> M:
    """Let a manifest of a newer API be made: fields that only that API has are kept by name in `unknown`."""
    init = cls.__init__  # type: ignore[misc]

    @functools.wraps(init)
    def tolerant(self: Any, **given: Any) -> None:
        unknown = sorted(set(given) - {field.name for field in fields(cls)})
        init(
            self,
            **{k: v for k, v in given.items() if k not in unknown},
            **({"unknown": tuple(unknown)} if unknown else {}),
        )

    cls.__init__ = tolerant  # type: ignore[misc]
    return cls


@_keeps_unknown_fields
@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """`api` is the plugin API that the plugin was written for: no default, so that nobody forgets it.

    `overrides` are all that the device class declares, exactly: the plan can be told without the hardware.
    `schemes` and `dtypes` are names; a weight in another scheme is dequantized by core at load. `encoder_scheme` is one
    of `schemes`, to which dtype "auto", the fast path, quantizes the float weights of an encoder's linear layers; None
    leaves them as they are. A decoder's weights always stay as its file has them. `unknown` names
    fields that this core has not heard of. Raises ContractError for nonsense, except in a manifest whose API this
    core does not serve: what that one means is not for this core to say, and the loader turns it away by its API.
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
    encoder_scheme: str | None = None
    unknown: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        api: Any = self.api
        if not (isinstance(api, tuple) and len(api) == 2 and all(type(part) is int for part in api)):
            raise ContractError(f"bad plugin API {api!r}", why="expected (major, minor)")
        if incompatibility(api):
            return
        problem = kind_problem(self.kind)
        if problem:
            raise ContractError(problem)
        if self.unknown:
            known = ", ".join(field.name for field in fields(self) if field.name != "unknown")
            raise ContractError(f"unknown manifest fields {', '.join(self.unknown)}", why=f"expected some of {known}")
        if self.device_class not in RANK:
            raise ContractError(f"bad device class {self.device_class!r}", why=f"expected one of {', '.join(RANK)}")
        for name in ("dtypes", "schemes", "features", "kv_layouts"):
            names = getattr(self, name)
            if not isinstance(names, tuple) or not all(isinstance(item, str) for item in names):
                raise ContractError(f"bad {name} {names!r} in a manifest", why="expected a tuple of names")
        if self.encoder_scheme not in (None, *self.schemes):
            why = f"expected one of its schemes, {', '.join(self.schemes) or 'of which it has none'}"
            raise ContractError(f"bad encoder_scheme {self.encoder_scheme!r}", why=why)
        self._check_overrides()

    def _check_overrides(self) -> None:
        given: Any = self.overrides
        if self.is_of_older_major and isinstance(given, tuple):
            # The shim for API 0, whose manifests named their implementations and nothing more.
            given = tuple(DeclaredOverride(UNKNOWN_OP, o) if isinstance(o, str) else o for o in given)
            object.__setattr__(self, "overrides", given)
        if not isinstance(given, tuple) or not all(isinstance(o, DeclaredOverride) for o in given):
            raise ContractError(f"bad overrides {given!r} in a manifest", why="expected a tuple of DeclaredOverride")
        impls = [override.impl for override in given]
        twice = sorted({impl for impl in impls if impls.count(impl) > 1})
        if twice:
            raise ContractError(f"the manifest declares {', '.join(twice)} twice", why="expected distinct impl names")

    @property
    def is_of_older_major(self) -> bool:
        return self.api[0] < PLUGIN_API[0]

    def as_data(self) -> dict[str, Any]:
        """All of it in types that JSON has; `from_data` is the way back."""
        overrides = [{**asdict(o), "handles": sorted(o.handles)} for o in self.overrides]
        return {**{field.name: _plain(getattr(self, field.name)) for field in fields(self)}, "overrides": overrides}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Manifest:
        """Raises ContractError, TypeError or KeyError for data that is no manifest."""
        given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        given["overrides"] = tuple(DeclaredOverride(**override) for override in data["overrides"])
        return cls(**given)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


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
