"""What is checked: a way to open a device, the plugin it comes from, and the reference beside it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, Self

from rtp_core.conformance.core_snapshot import core_snapshot
from rtp_core.conformance.expectation import reason
from rtp_core.conformance.replay import Replay, read_replay
from rtp_core.conformance.spawned import Observation, observe
from rtp_core.device.device import Device
from rtp_core.device.host_memory import host_memory_info
from rtp_core.device.loader import Plugin, State, load_plugins
from rtp_core.device.manifest import DeviceConfig, DeviceInfo, Manifest
from rtp_core.device.opening import create, open_device
from rtp_core.device.reference import ReferenceDevice
from rtp_core.errors import DeviceUnavailableError

BUDGET = 256 << 20  # bytes, of the device under test and of the reference


class Subject:
    """A device under test, opened when it is first needed. `plugin` is None for a class that no plugin provides."""

    def __init__(
        self,
        info: DeviceInfo,
        manifest: Manifest,
        opening: Callable[[DeviceConfig], Device],
        *,
        plugin: Plugin | None = None,
        replay: Replay | None = None,
    ) -> None:
        self.info, self.manifest, self.plugin, self.replay = info, manifest, plugin, replay
        self._opening = opening
        self.core_before = core_snapshot()
        self.oracles: dict[Any, Any] = {}  # results of the reference that several cases share, by what was asked

    @classmethod
    def named(cls, name: str, replay: str | None = None) -> Self:
        """A device of an installed plugin: kind, kind@dist or either with :index; `replay` names a model or a plan.

        Raises DeviceUnavailableError, and for the replay what `read_replay` raises.
        """
        kind, _, index = name.partition(":")
        number = int(index) if index.isdecimal() else 0 if not index else -1
        plugin = next((p for p in load_plugins(kind) if p.state is State.AVAILABLE), None)
        if plugin is None or plugin.manifest is None or not 0 <= number < len(plugin.devices):
            open_device(name, DeviceConfig()).close()  # says which, why not, and what to do about it
            raise DeviceUnavailableError(f"no device {name!r} to check", hint="rtp devices list")
        found, info = plugin, plugin.devices[number]
        again = None if replay is None else read_replay(replay, plugin.manifest)
        return cls(info, plugin.manifest, lambda config: create(found, info, config), plugin=plugin, replay=again)

    @classmethod
    def of_class(cls, device: type[Device]) -> Self:
        """A device class by itself."""
        info = DeviceInfo(f"{device.kind}:0", device.__name__, BUDGET, BUDGET)
        return cls(info, device.manifest, lambda config: device(info, config))

    def open(self, budget: int = BUDGET) -> Device:
        """One more device, for a case that spoils it."""
        return self._opening(DeviceConfig(memory_budget=min(budget, self.info.memory_total_bytes)))

    @cached_property
    def device(self) -> Device:
        """The device that cases share."""
        return self.open()

    @cached_property
    def opening_error(self) -> str:
        """Why it cannot be opened, or nothing."""
        try:
            self.device.synchronize()
        except Exception as error:
            return reason(error)
        return ""

    @cached_property
    def reference(self) -> Device:
        total, _ = host_memory_info()
        info = DeviceInfo("ref:0", "reference", total, total)
        return ReferenceDevice(info, DeviceConfig(memory_budget=min(BUDGET, total)))

    @cached_property
    def observation(self) -> Observation:
        """What a fresh process saw while it loaded and opened the plugin."""
        assert self.plugin is not None
        return observe(self.plugin.kind, self.plugin.value, self.info)

    def close(self) -> None:
        for name in ("device", "reference"):
            if name in vars(self):
                vars(self).pop(name).close()
