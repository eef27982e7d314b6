"""Device: the ladder with its contract. Vendors derive from it; core calls nothing else."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

from rtp_core.device.layers import Layers
from rtp_core.device.manifest import DeviceConfig, DeviceInfo, Manifest
from rtp_core.device.op import OpSpec, Override
from rtp_core.device.services import Communicator
from rtp_core.errors import ConfigError, ContractError
from rtp_core.memory.arena import Arena

MIN_BUDGET = 1 << 20  # bytes: less cannot hold one layer of anything


class Device(Layers):
    """An opened unit that computes. Attributes are fixed once it is created: state lives in objects they name.

    A subclass implements the primitives as plain methods and marks better composites with `@overrides`.
    Everything else of its own starts with an underscore.
    """

    manifest: ClassVar[Manifest]
    kind: ClassVar[str]  # the manifest's
    overrides: ClassVar[tuple[Override, ...]] = ()  # of the class and its bases, first asked first
    borrowed: ClassVar[frozenset[str]] = frozenset()  # primitives that are another device's, for the time being

    info: DeviceInfo
    config: DeviceConfig

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "manifest" in vars(cls):
            cls.kind = cls.manifest.kind
        cls.borrowed = frozenset(name for name in PRIMITIVES if hasattr(getattr(cls, name), "__rtp_borrowed__"))
        problems = list(_problems(cls))
        if problems:
            raise ContractError(f"{cls.__name__} breaks the device contract", why="; ".join(problems))
        cls.overrides = tuple(sorted(_declared(cls).values(), key=lambda o: (o.op, -o.priority)))

    def __new__(cls, *args: Any, **options: Any) -> Self:
        if not hasattr(cls, "manifest"):
            raise ContractError(
                f"{cls.__name__} cannot be created", why="expected a class attribute manifest: Manifest(...)"
            )
        missing = sorted(cls.__abstractmethods__)
        if missing:
            raise ContractError(f"{cls.__name__} cannot be created", why=f"missing primitives: {', '.join(missing)}")
        return super().__new__(cls)

    def __init__(self, info: DeviceInfo, config: DeviceConfig) -> None:
        """Reserve the budget. Raises ConfigError for a budget no device has, OutOfMemoryError where it is not free."""
        self.info, self.config = info, config
        self.communicator = Communicator()
        total, free = self.memory_info()
        budget = free // 2 if config.memory_budget is None else config.memory_budget
        if not MIN_BUDGET <= budget <= total:
            raise ConfigError(
                f"memory budget is {budget} bytes",
                where=info.id,
                why=f"expected {MIN_BUDGET} to {total}, what it has in all",
            )
        self.arena = Arena(self.reserve(budget), self.alignment)

    def bound(self, implementations: Mapping[str, Callable[..., Any]]) -> Self:
        """This device with some ops served by the given functions; it shares everything else with it."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        for op, function in implementations.items():
            twin.__dict__[op] = function.__get__(twin)
        return twin


def _collect_ops() -> dict[str, OpSpec]:
    specs = [getattr(member, "__rtp_op__", None) for _, member in inspect.getmembers(Device)]
    return {spec.name: spec for spec in sorted((s for s in specs if s), key=lambda s: (s.level, s.name))}


OPS: dict[str, OpSpec] = _collect_ops()
PRIMITIVES: tuple[str, ...] = tuple(name for name, spec in OPS.items() if spec.is_primitive)
_PUBLIC = frozenset(name for name in dir(Device) if not name.startswith("_")) | set(Device.__annotations__)


def _declared(cls: type[Device]) -> dict[str, Override]:
    """The overrides of a class by their method's name, those of its bases and mixins included."""
    members = ((name, getattr(getattr(cls, name, None), "__rtp_override__", None)) for name in dir(cls))
    return {name: override for name, override in members if override is not None}


def _problems(cls: type[Device]) -> list[str]:
    """What of a subclass's own body, and of the mixins it brings, breaks the contract, in words."""
    problems: list[str] = []
    priorities: dict[tuple[str, int], str] = {}
    for name, override in _declared(cls).items():
        problems += _override_problems(name, override, priorities)
    checked = {base for device in cls.__mro__[1:] if issubclass(device, Device) for base in device.__mro__}
    members = {name: m for base in reversed(cls.__mro__) if base not in checked for name, m in vars(base).items()}
    for name, member in members.items():
        if hasattr(member, "__rtp_override__"):
            continue
        if name in OPS:
            if not OPS[name].is_primitive:
                problems.append(f"{name} redefines a composite: use @overrides({name!r}, impl=...)")
            elif _names(member) != OPS[name].parameters:
                problems.append(f"{name}: expected parameters {OPS[name].parameters}, got {_names(member)}")
        elif not name.startswith("_") and name not in _PUBLIC:
            problems.append(f"{name}: core never calls this public name; start it with an underscore")
    return problems


def _override_problems(name: str, override: Override, priorities: dict[tuple[str, int], str]) -> list[str]:
    spec = OPS.get(override.op)
    if spec is None:
        return [f"{name}: overrides unknown op {override.op!r}"]
    if spec.is_primitive:
        return [f"{name}: {override.op} is a primitive: define it as a plain method"]
    problems = []
    if not name.startswith("_"):
        problems.append(f"{name}: an override's own name starts with an underscore")
    expected = tuple(p for p in spec.parameters if p not in spec.options or spec.options[p] in override.handles)
    got = _names(override.function)
    if got != expected:
        problems.append(f"{name}: expected parameters {expected} of {override.op}, got {got}")
    rival = priorities.setdefault((override.op, override.priority), override.impl)
    if rival != override.impl:
        problems.append(
            f"{name}: {override.impl} and {rival} override {override.op} with equal priority {override.priority}"
        )
    return problems


def _names(member: Any) -> tuple[str, ...]:
    return tuple(inspect.signature(member).parameters)[1:]
