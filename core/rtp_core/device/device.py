"""Device: the ladder with its contract. Vendors derive from it; core calls nothing else."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

from rtp_core.device.contract import class_problems, declared_overrides
from rtp_core.device.layers import Layers
from rtp_core.device.manifest import DeviceConfig, DeviceInfo, Manifest
from rtp_core.device.op import OpSpec, Override
from rtp_core.device.services import Communicator
from rtp_core.errors import ConfigError, ContractError
from rtp_core.memory.arena import Arena
from rtp_core.memory.space import Region

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
        cls.borrowed = frozenset(name for name in PRIMITIVES if hasattr(getattr(cls, name), "__rtp_borrowed__"))
        problems = class_problems(cls, Device, OPS)
        if problems:
            raise ContractError(f"{cls.__name__} breaks the device contract", why="; ".join(problems))
        if "manifest" in vars(cls):
            cls.kind = cls.manifest.kind
        found = {override.impl: override for override in declared_overrides(cls).values()}
        cls.overrides = tuple(sorted(found.values(), key=lambda o: (o.op, -o.priority)))

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
        self.arena = Arena(self.reserve(budget), self.alignment, name=info.id)

    def bound(self, implementations: Mapping[str, Callable[..., Any]]) -> Self:
        """This device with some ops served by the given functions; it shares everything else with it."""
        # Methods of a class of its own, not attributes of the twin: the interpreter calls those faster.
        cls = type(self)
        twin_class = type(cls.__name__, (cls,), {"__module__": cls.__module__, "__doc__": cls.__doc__})
        for op, function in implementations.items():
            setattr(twin_class, op, function)
        twin: Self = object.__new__(twin_class)
        twin.__dict__.update(self.__dict__)
        return twin

    def over(self, region: Region) -> Self:
        """This device with an arena of its own over `region`; it shares everything else with it."""
        twin: Self = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin.arena = Arena(region, self.alignment, name=self.info.id)
        return twin

    def rehearsal(self) -> Device | None:
        """A twin with an arena of its own, whose ops allocate what this device's would and compute nothing.

        Warm-up measures the worst steps with it, before a weight is loaded; copies of integers are made, since ops may
        plan by them. Whoever asked closes it. None: only running them tells what steps take, and warm-up does.
        """
        return None


def _collect_ops() -> dict[str, OpSpec]:
    specs = [getattr(member, "__rtp_op__", None) for _, member in inspect.getmembers(Device)]
    return {spec.name: spec for spec in sorted((s for s in specs if s), key=lambda s: (s.level, s.name))}


OPS: dict[str, OpSpec] = _collect_ops()
PRIMITIVES: tuple[str, ...] = tuple(name for name, spec in OPS.items() if spec.is_primitive)
