"""The hooks of a plugin, called once per process and never on the token path."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pluggy

from rtp_core.device.manifest import DeviceConfig, DeviceInfo, Manifest
from rtp_core.device.op import No

PROJECT = "rtp"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class PluginHooks:
    """What the module named by an `rtp.devices` entry point defines, each marked with `hookimpl`."""

    @hookspec(firstresult=True)
    def rtp_device_manifest(self) -> Manifest:  # type: ignore[empty-body]
        """What the plugin is. Loads no SDK and nothing native."""

    @hookspec(firstresult=True)
    def rtp_device_probe(self) -> list[DeviceInfo] | No:  # type: ignore[empty-body]
        """The devices that are there now, or No(reason) where the hardware is cleanly absent."""

    @hookspec(firstresult=True)
    def rtp_device_create(self, info: DeviceInfo, config: DeviceConfig) -> Any:
        """Open a device that the probe found: a `Device`, whose module need not be loaded before this."""

    @hookspec(firstresult=True)
    def rtp_env_report(self) -> dict[str, str]:  # type: ignore[empty-body]
        """Versions of drivers, SDKs and firmware, for `rtp env`. Optional."""


def load_hooks(kind: str, value: str) -> pluggy.HookRelay:
    """Import what an entry point of `kind` names ("module" or "module:attribute") and return its hooks.

    Raises whatever the import raises, and pluggy's PluginValidationError for a hook that the contract lacks.
    """
    module, _, attributes = value.partition(":")
    plugin: Any = import_module(module.strip())
    for attribute in filter(None, attributes.strip().split(".")):
        plugin = getattr(plugin, attribute)
    # A manager of its own for each plugin: two of them never answer each other's hooks.
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(PluginHooks)
    manager.register(plugin, name=kind)
    manager.check_pending()  # a misspelled hook is an error, not a hook that nobody calls
    return manager.hook
