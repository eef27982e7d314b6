"""The plan of a model on a device, told without loading the model, and without the device where it is absent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rtp_core.checkpoint.opening import open_checkpoint
from rtp_core.config import check_model_type
from rtp_core.device.choice import Offer, Wishes
from rtp_core.device.loader import Plugin, State, load_plugins
from rtp_core.device.manifest import DeviceConfig, Manifest
from rtp_core.device.opening import AUTO, open_device
from rtp_core.device.plan import Rows, explained_rows, plan_hash
from rtp_core.device.services import Services
from rtp_core.engine.engine_config import EngineConfig
from rtp_core.errors import DeviceUnavailableError
from rtp_core.models.model import MODELS, demand_of_header
from rtp_core.models.weight_reader import Precision

BUDGET = 16 << 20  # bytes: the device is only asked, it holds nothing


@dataclass(frozen=True, slots=True)
class ExplainedPlan:
    """`device` is an id, or a kind where only the manifest was asked, for the reason `assumed`."""

    device: str
    dtype: str
    features: tuple[str, ...]
    rows: Rows
    assumed: str = ""

    @property
    def hash(self) -> str:
        return plan_hash(self.rows)


@dataclass(frozen=True, slots=True)
class _Target:
    """What of a device the plan is about."""

    offer: Offer
    manifest: Manifest
    default_dtype: str
    assumed: str = ""


def explain_plan(
    path: Path,
    config: EngineConfig,
    *,
    assume_manifest: bool = False,
    info: Callable[[str], None] = lambda line: None,
) -> ExplainedPlan:
    """The plan that an engine of this config would have for requests with all of `config.features`.

    Reads headers, not weights, and opens the device in little memory. Where the hardware is cleanly absent, or with
    `assume_manifest`, the plugin's manifest answers alone: no predicate can be asked. Raises any RtpError.
    """
    checkpoint = open_checkpoint(path)
    check_model_type(checkpoint.config.model_type, MODELS, str(path))
    target = _target(config, assume_manifest, info)
    precision = Precision.by_manifest(
        target.manifest,
        target.default_dtype,
        config.dtype,
        config.quantization,
        target.offer.where,
        is_encoder=checkpoint.config.is_encoder,
    )
    demand = demand_of_header(checkpoint.config, checkpoint.header, precision, target.manifest, str(path))
    wishes = Wishes(frozenset(config.disable_impl), config.preferred)
    features = frozenset(config.features)
    rows = explained_rows(target.offer, demand, wishes, features)
    return ExplainedPlan(target.offer.where, demand.dtype, tuple(sorted(features)), rows, target.assumed)


def _target(config: EngineConfig, assume_manifest: bool, info: Callable[[str], None]) -> _Target:
    if assume_manifest:
        if config.device == AUTO:
            raise DeviceUnavailableError("no device named", why="a manifest is of one kind", hint="--device KIND")
        plugin = _described_plugin(config.device)
        if plugin is not None:
            return _of_manifest(plugin, "asked for")
    try:
        device = open_device(
            config.device,
            DeviceConfig(config.threads or 1, BUDGET),
            allow_fallback=config.allow_device_fallback,
            info=info,
        )
    except DeviceUnavailableError:
        absent = None if config.device == AUTO else _described_plugin(config.device)
        if absent is None or absent.state is not State.UNAVAILABLE:
            raise
        return _of_manifest(absent, absent.reason)
    target = _Target(Offer.of_device(device), device.manifest, device.default_dtype)
    device.close()
    return target


def _described_plugin(name: str) -> Plugin | None:
    """The plugin that `name` means, where its manifest can be had."""
    plugins = [p for p in load_plugins(name.partition(":")[0]) if p.manifest is not None]
    return plugins[0] if len(plugins) == 1 else None


def _of_manifest(plugin: Plugin, reason: str) -> _Target:
    """A manifest does not name the dtype of the fast path: it is taken to be what most devices have."""
    manifest = plugin.manifest
    assert manifest is not None
    usual = Services.default_dtype
    default = usual if usual in manifest.dtypes else manifest.dtypes[0]
    return _Target(Offer.of_manifest(manifest), manifest, default, reason)
