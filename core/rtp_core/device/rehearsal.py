"""A device without its arithmetic: each primitive allocates what it would return, and that is all.

For a device whose primitives take no other memory than their results, such as the reference.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtp_core import dtypes
from rtp_core.device.device import OPS, PRIMITIVES, Device
from rtp_core.dtypes import DType
from rtp_core.memory.buffer import Buffer, Shape
from rtp_core.memory.qbuffer import QBuffer, QuantScheme
from rtp_core.memory.space import NOWHERE, Region

_BASE, _NBYTES = 1 << 44, 1 << 50  # an imaginary region: nothing is ever there

Result = tuple[Shape, DType]


def rehearsal_of(device: Device) -> Device:
    """A twin of `device` over imaginary memory, with primitives and copies that compute nothing.

    Overrides of the device are not replaced: it must have none, or only such as leave contents alone.
    """
    twin = device.over(Region(NOWHERE, _BASE, _NBYTES))
    return twin.bound({op: _allocating(op) for op in PRIMITIVES} | {"copy": _copy, "download": _download})


def allocated_results(device: Device, op: str, arguments: Mapping[str, Any]) -> Any:
    """What a primitive returns for these arguments (by name, all of them): `out`, or new buffers under its name."""
    if arguments.get("out") is not None:
        return arguments["out"]
    results = tuple(device.alloc(shape, dtype, op) for shape, dtype in _RESULTS[op](arguments))
    if op == "quantize":
        return QBuffer.of_parts(arguments["scheme"], arguments["x"].shape, results)
    return results[0] if len(results) == 1 else results or None


def _allocating(op: str) -> Callable[..., Any]:
    signature = OPS[op].signature

    def method(self: Device, *args: Any, **options: Any) -> Any:
        bound = signature.bind(self, *args, **options)
        bound.apply_defaults()
        return allocated_results(self, op, bound.arguments)

    method.__name__, method.__doc__ = op, f"What {op} returns, with any contents."
    method.__signature__ = inspect.Signature(list(signature.parameters.values()))  # type: ignore[attr-defined]
    return method


def _copy(self: Device, dst: Buffer, src: Buffer) -> None:
    """Nothing: there are no contents."""


def _download(self: Device, x: Buffer) -> NDArray[Any]:
    """Zeros."""
    return np.zeros(x.shape, x.dtype.numpy)


def _like(name: str) -> Callable[[Mapping[str, Any]], tuple[Result, ...]]:
    return lambda a: ((a[name].shape, a[name].dtype),)


def _kv_gather(a: Mapping[str, Any]) -> tuple[Result, ...]:
    _, _, kv_heads, _, dim = a["kv"].shape
    return (((kv_heads, a["num_tokens"], dim), a["kv"].dtype),) * 2


def _top_k(a: Mapping[str, Any]) -> tuple[Result, ...]:
    shape = (a["x"].shape[0], a["k"])
    return (shape, a["x"].dtype), (shape, dtypes.int32)


def _quantize(a: Mapping[str, Any]) -> tuple[Result, ...]:
    scheme: QuantScheme = a["scheme"]
    return tuple(scheme.parts(*a["x"].shape).values())


# What each primitive returns, from its arguments by name.
_RESULTS: Mapping[str, Callable[[Mapping[str, Any]], tuple[Result, ...]]] = {
    "activation": _like("x"),
    "add": _like("a"),
    "cast": lambda a: ((a["x"].shape, a["dtype"]),),
    "dequantize": lambda a: ((a["x"].shape, a["dtype"]),),
    "gather_rows": lambda a: (((a["ids"].shape[0], a["table"].shape[1]), a["dtype"] or a["table"].dtype),),
    "gemm": lambda a: (((*a["a"].shape[:-1], a["b"].shape[-2 if a["trans_b"] else -1]), a["a"].dtype),),
    "kv_gather": _kv_gather,
    "kv_write": lambda a: (),
    "layer_norm": _like("x"),
    "mul": _like("a"),
    "quantize": _quantize,
    "rms_norm": _like("x"),
    "rope": _like("x"),
    "softmax": _like("x"),
    "top_k": _top_k,
}
