"""Matrices as compressed-tensors stores them: codes of 8 bits `X.weight` [N, K], and beside them `X.weight_scale`.

How they are quantized says `quantization_config` in config.json; which of them are, the tensors say.
Source: QuantizationConfig and QuantizationArgs of compressed-tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from rtp_core import dtypes
from rtp_core.errors import CheckpointError, UnsupportedModelError
from rtp_core.memory.buffer import Buffer
from rtp_core.memory.qbuffer import FP8_CHANNEL, INT8_CHANNEL, QBuffer, QuantScheme

_SCALE = "_scale"  # what follows on a matrix's name
_FLOATS = (dtypes.float32, dtypes.bfloat16, dtypes.float16)
_SUPPORTED = (
    "supported is compressed-tensors with symmetric weights of 8 bits and a scale for each channel or one for all, "
    "and activations that are quantized token by token or not at all"
)

# Of each format, the type of its numbers and its scheme.
_FORMATS = {"int-quantized": ("int", INT8_CHANNEL), "float-quantized": ("float", FP8_CHANNEL)}
# What each setting may be. None: left out, where that means the same.
_OUTER: Mapping[str, tuple[Any, ...]] = {
    "quant_method": ("compressed-tensors",),
    "format": tuple(_FORMATS),
    "kv_cache_scheme": (None,),
    "transform_config": (None, {}),
}
_WEIGHTS: Mapping[str, tuple[Any, ...]] = {
    "num_bits": (8,),
    "symmetric": (True, None),
    "strategy": ("channel", "tensor"),
    "group_size": (None, -1),
    "block_structure": (None,),
    "dynamic": (False, None),
}
_ACTIVATIONS: Mapping[str, tuple[Any, ...]] = {
    "num_bits": (8,),
    "symmetric": (True, None),
    "strategy": ("token",),
    "dynamic": (True,),
}

Setting = tuple[str, Any, tuple[Any, ...]]  # name, what it is, what it may be


def quantized_scheme(config: Any, where: Path) -> QuantScheme:
    """The scheme that a `quantization_config` means. Raises UnsupportedModelError for any that is not served here."""
    for name, found, allowed in _settings(config if isinstance(config, dict) else {}):
        if found not in allowed:
            told = " or ".join(repr(value) for value in allowed if value is not None) or "none"
            raise UnsupportedModelError(
                f"quantization_config with {name} {found!r:.60}", where=str(where), why=f"expected {told}; {_SUPPORTED}"
            )
    return _FORMATS[config["format"]][1]


def with_scales(tensors: Mapping[str, Buffer], scheme: QuantScheme, where: Path) -> dict[str, Buffer]:
    """The same tensors, with one QBuffer for a matrix and its scales. Raises CheckpointError where they do not fit."""
    scaled = {name.removesuffix(_SCALE) for name in tensors if name.endswith(f".weight{_SCALE}")}
    scales = {name + _SCALE for name in scaled}
    found = {name: tensor for name, tensor in tensors.items() if name not in scales}
    for name in scaled:
        if name not in tensors:
            _fail(name, where, f"it is missing, and {name + _SCALE:.100} is there")
        found[name] = _scaled(name, tensors[name], tensors[name + _SCALE], scheme, where)
    for name, tensor in found.items():
        if tensor.dtype is scheme.code_dtype and name not in scaled:
            _fail(name, where, f"it has codes in {tensor.dtype}, and {name + _SCALE:.100} is missing")
    return found


def _settings(config: Mapping[str, Any]) -> Iterator[Setting]:
    """All that decide what codes mean, the outermost first."""
    yield from _of(config, _OUTER)
    yield from _of(_object(config, "sparsity_config"), {"format": (None, "dense")}, "sparsity_config.")
    kind, _ = _FORMATS[config["format"]]
    groups = config.get("config_groups")
    if not isinstance(groups, dict) or not groups:
        yield "config_groups", groups, ("groups",)
        return
    for group in groups.values():
        group = group if isinstance(group, dict) else {}
        yield from _of(group, {"format": (None, config["format"]), "output_activations": (None,)})
        yield from _of(_object(group, "weights"), {**_WEIGHTS, "type": (kind,)}, "weights.")
        if group.get("input_activations") is not None:
            yield from _of(_object(group, "input_activations"), {**_ACTIVATIONS, "type": (kind,)}, "input_activations.")


def _of(config: Mapping[str, Any], allowed: Mapping[str, tuple[Any, ...]], prefix: str = "") -> Iterator[Setting]:
    return ((prefix + name, config.get(name), values) for name, values in allowed.items())


def _object(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """That, or nothing where it is no object, so that what it lacks is told."""
    value = config.get(name)
    return value if isinstance(value, dict) else {}


def _scaled(name: str, codes: Buffer, scales: Buffer, scheme: QuantScheme, where: Path) -> QBuffer:
    if len(codes.shape) != 2 or codes.dtype is not scheme.code_dtype:
        _fail(name, where, f"expected {scheme.code_dtype} of two axes, got {codes.dtype} {codes.shape}")
    rows, columns = codes.shape
    if scales.shape not in ((rows, 1), (1,), ()) or scales.dtype not in _FLOATS:
        got = f"{scales.dtype} {scales.shape}"
        _fail(name + _SCALE, where, f"expected floats of shape {(rows, 1)} or (1,), got {got}")
    each = np.broadcast_to(scales.numpy().astype(np.float32), (rows, 1))
    parts = codes.view(rows, 1, columns), Buffer.borrow(np.ascontiguousarray(each), "checkpoint")
    return QBuffer.of_parts(scheme, (rows, columns), parts)


def _fail(name: str, where: Path, why: str) -> NoReturn:
    raise CheckpointError(f"bad tensor {name:.100}", where=str(where), why=why)
