"""A device that records every call of a primitive and computes nothing, in memory that is not there.

It shows what core asks of a device, in which order and with which shapes. A download gives zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from rtp_core.plugin import (
    OPS,
    PRIMITIVES,
    Buffer,
    Device,
    DeviceConfig,
    DeviceInfo,
    DType,
    Manifest,
    MemorySpace,
    QBuffer,
    Region,
    Shape,
    dtypes,
)
from rtp_test_devices.recorder_plugin import MANIFEST, TOTAL_BYTES

BASE = 1 << 44

Result = tuple[Shape, DType]


@dataclass(frozen=True, slots=True)
class Call:
    """One call: the op, and its buffers by parameter name as (shape, name of the dtype)."""

    op: str
    operands: dict[str, tuple[Shape, str]]


def _like(name: str) -> Callable[[dict[str, Any]], tuple[Result, ...]]:
    return lambda a: ((a[name].shape, a[name].dtype),)


def _kv_gather(a: dict[str, Any]) -> tuple[Result, ...]:
    _, _, kv_heads, _, dim = a["kv"].shape
    return (((kv_heads, a["num_tokens"], dim), a["kv"].dtype),) * 2


def _top_k(a: dict[str, Any]) -> tuple[Result, ...]:
    shape = (a["x"].shape[0], a["k"])
    return (shape, a["x"].dtype), (shape, dtypes.int32)


def _quantize(a: dict[str, Any]) -> tuple[Result, ...]:
    rows, groups = a["x"].shape[0], a["x"].shape[1] // a["scheme"].group
    scales = ((rows, groups), dtypes.float16)
    payload = ((rows, groups, a["scheme"].payload_bytes), dtypes.uint8)
    return (payload, scales) if a["scheme"].symmetric else (payload, scales, scales)


# What each primitive would return, from its arguments by name.
RESULTS: dict[str, Callable[[dict[str, Any]], tuple[Result, ...]]] = {
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


def _recorded(op: str) -> Callable[..., Any]:
    """A method with the primitive's own signature, which notes the call and allocates what it returns."""
    signature = OPS[op].signature

    def method(self: RecorderDevice, *args: Any, **options: Any) -> Any:
        bound = signature.bind(self, *args, **options)
        bound.apply_defaults()
        arguments = bound.arguments
        self._record(op, arguments)
        if arguments.get("out") is not None:
            return arguments["out"]
        results = tuple(self.alloc(shape, dtype, op) for shape, dtype in RESULTS[op](arguments))
        if op == "quantize":
            return QBuffer(arguments["scheme"], arguments["x"].shape, *results)
        return results[0] if len(results) == 1 else results or None

    method.__name__, method.__doc__ = op, f"Record a call of {op}."
    method.__signature__ = signature  # type: ignore[attr-defined]
    return method


_Recorded: Any = type("_Recorded", (), {op: _recorded(op) for op in PRIMITIVES})


class RecorderDevice(_Recorded, Device):
    """`calls` grows by one entry for every primitive and every copy; clear it at will."""

    manifest: ClassVar[Manifest] = MANIFEST
    space = MemorySpace("recorder:0", host_addressable=False)

    def __init__(self, info: DeviceInfo, config: DeviceConfig) -> None:
        super().__init__(info, config)
        self.calls: list[Call] = []

    def memory_info(self) -> tuple[int, int]:
        return TOTAL_BYTES, TOTAL_BYTES

    def reserve(self, nbytes: int) -> Region:
        return Region(self.space, BASE, nbytes)

    def copy(self, dst: Buffer, src: Buffer) -> None:
        self._record("copy", {"dst": dst, "src": src})
        if dst.space.host_addressable:
            dst.numpy()[...] = src.numpy() if src.space.host_addressable else 0

    def _record(self, op: str, arguments: dict[str, Any]) -> None:
        operands = {name: (x.shape, x.dtype.name) for name, x in arguments.items() if isinstance(x, Buffer)}
        self.calls.append(Call(op, operands))
