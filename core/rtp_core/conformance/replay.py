"""The shapes and schemes of a real model, from its files' headers or from a saved plan. Loads no weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rtp_core.checkpoint import hub
from rtp_core.checkpoint.mapped_file import read_json
from rtp_core.checkpoint.opening import open_checkpoint
from rtp_core.conformance.dims import Dims
from rtp_core.device.device import OPS
from rtp_core.device.manifest import Manifest
from rtp_core.device.plan_lock import read_plan
from rtp_core.errors import ConfigError
from rtp_core.models.model import demand_of_header
from rtp_core.models.weight_reader import Precision

MAX_PLAN = 16 << 20  # bytes
REPLAYED = (
    "gather_rows",
    "gemm",
    "rms_norm",
    "rope",
    "add_norm",
    "gated_activation",
    "linear",
    "qkv_linear",
    "lm_head",
    "context_attention",
    "decoder_self_attention",
    "attention_layer",
    "ffn_layer",
    "decoder_layer",
)


@dataclass(frozen=True, slots=True)
class Replay:
    """A model's sizes, and by op the schemes and the features that it meets there."""

    name: str
    dims: Dims
    schemes: Mapping[str, frozenset[str]]
    features: Mapping[str, frozenset[str]]


def read_replay(source: str, manifest: Manifest) -> Replay:
    """From a plan's JSON, or from a model's folder, file or name, as the device of `manifest` would run it.

    Raises ConfigError for a plan that does not say what it needs, ModelError for a model that cannot be read.
    """
    path = Path(source)
    if path.suffix == ".json" and path.is_file():
        return _of_plan(path)
    checkpoint = open_checkpoint(hub.resolve(source))
    is_encoder = checkpoint.config.is_encoder
    precision = Precision.by_manifest(manifest, "float32", "auto", None, manifest.kind, is_encoder=is_encoder)
    met = demand_of_header(checkpoint.config, checkpoint.header, precision, manifest, source)
    schemes = {op: frozenset(met.schemes.get(op, ("none",))) for op in REPLAYED}
    features = {op: frozenset(met.features.get(op, ())) for op in REPLAYED}
    return Replay(path.name, Dims.of(checkpoint.config), schemes, features)


def _of_plan(path: Path) -> Replay:
    """The ops of a saved plan. Sizes are in its `dims`, or in the header of the `model` that it names."""
    rows = [row for row in read_plan(path).rows if row.op in OPS]
    document = read_json(path, MAX_PLAN)
    schemes = {row.op: frozenset(row.scheme.split("+")) for row in rows}
    features = {row.op: frozenset(row.features) for row in rows}
    return Replay(path.name, _sizes(document, path), schemes, features)


def _sizes(document: Mapping[str, Any], path: Path) -> Dims:
    dims, model = document.get("dims"), document.get("model")
    names = Dims.__dataclass_fields__
    if isinstance(dims, dict) and all(type(dims.get(name)) is int and 0 < dims[name] < 1 << 31 for name in names):
        return Dims(**{name: dims[name] for name in names})
    if isinstance(model, str):
        return Dims.of(open_checkpoint(hub.resolve(model)).config)
    raise ConfigError("this plan has no sizes", where=str(path), why="expected `dims`, or the `model` it was made for")
