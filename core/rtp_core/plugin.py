"""The public face of the contract: all that a plugin imports from rtp_core.

A name loads its module when it is first used, so that a plugin's own module, which says what it is and probes
for hardware, loads neither arithmetic nor the ladder.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rtp_core import dtypes as dtypes
    from rtp_core.device.attention_batch import (
        AttentionBatch as AttentionBatch,
        EncoderBatch as EncoderBatch,
        ForwardBatch as ForwardBatch,
    )
    from rtp_core.device.borrowed import BorrowedPrimitives as BorrowedPrimitives
    from rtp_core.device.device import (
        OPS as OPS,
        PRIMITIVES as PRIMITIVES,
        Device as Device,
    )
    from rtp_core.device.hooks import hookimpl as hookimpl
    from rtp_core.device.host_memory import host_memory_info as host_memory_info
    from rtp_core.device.kv_layout import KVLayout as KVLayout
    from rtp_core.device.manifest import (
        PLUGIN_API as PLUGIN_API,
        DeviceConfig as DeviceConfig,
        DeviceInfo as DeviceInfo,
        Manifest as Manifest,
    )
    from rtp_core.device.op import (
        YES as YES,
        DeclaredOverride as DeclaredOverride,
        No as No,
        Override as Override,
        Predicate as Predicate,
        Signature as Signature,
        Yes as Yes,
        overrides as overrides,
    )
    from rtp_core.device.primitives import ACTIVATIONS as ACTIVATIONS
    from rtp_core.device.rehearsal import allocated_results as allocated_results, rehearsal_of as rehearsal_of
    from rtp_core.device.services import Communicator as Communicator, Event as Event
    from rtp_core.device.weights import (
        AttentionWeights as AttentionWeights,
        EncoderWeights as EncoderWeights,
        FfnWeights as FfnWeights,
        LayerWeights as LayerWeights,
        Linear as Linear,
        ModelWeights as ModelWeights,
        MoeWeights as MoeWeights,
        Norm as Norm,
        RopeTables as RopeTables,
    )
    from rtp_core.dtypes import DType as DType
    from rtp_core.errors import (
        ConfigError as ConfigError,
        ContractError as ContractError,
        DeviceError as DeviceError,
        DeviceFailedError as DeviceFailedError,
        LibraryMemoryError as LibraryMemoryError,
        OutOfMemoryError as OutOfMemoryError,
        RtpError as RtpError,
    )
    from rtp_core.memory.buffer import Buffer as Buffer, Shape as Shape
    from rtp_core.memory.qbuffer import (
        Q4_0 as Q4_0,
        Q4_1 as Q4_1,
        Q4_K as Q4_K,
        Q5_0 as Q5_0,
        Q5_1 as Q5_1,
        Q5_K as Q5_K,
        Q6_K as Q6_K,
        Q8_0 as Q8_0,
        QBuffer as QBuffer,
        QuantScheme as QuantScheme,
    )
    from rtp_core.memory.space import (
        HOST as HOST,
        MemorySpace as MemorySpace,
        Region as Region,
        reserve_host as reserve_host,
    )
    from rtp_core.memory.storage import Storage as Storage

_NAMES: dict[str, tuple[str, ...]] = {
    "rtp_core.device.attention_batch": (
        "AttentionBatch",
        "EncoderBatch",
        "ForwardBatch",
    ),
    "rtp_core.device.borrowed": ("BorrowedPrimitives",),
    "rtp_core.device.device": (
        "OPS",
        "PRIMITIVES",
        "Device",
    ),
    "rtp_core.device.hooks": ("hookimpl",),
    "rtp_core.device.host_memory": ("host_memory_info",),
    "rtp_core.device.kv_layout": ("KVLayout",),
    "rtp_core.device.manifest": (
        "PLUGIN_API",
        "DeviceConfig",
        "DeviceInfo",
        "Manifest",
    ),
    "rtp_core.device.op": (
        "YES",
        "DeclaredOverride",
        "No",
        "Override",
        "Predicate",
        "Signature",
        "Yes",
        "overrides",
    ),
    "rtp_core.device.primitives": ("ACTIVATIONS",),
    "rtp_core.device.rehearsal": ("allocated_results", "rehearsal_of"),
    "rtp_core.device.services": (
        "Communicator",
        "Event",
    ),
    "rtp_core.device.weights": (
        "AttentionWeights",
        "EncoderWeights",
        "FfnWeights",
        "LayerWeights",
        "Linear",
        "ModelWeights",
        "MoeWeights",
        "Norm",
        "RopeTables",
    ),
    "rtp_core.dtypes": ("DType",),
    "rtp_core.errors": (
        "ConfigError",
        "ContractError",
        "DeviceError",
        "DeviceFailedError",
        "LibraryMemoryError",
        "OutOfMemoryError",
        "RtpError",
    ),
    "rtp_core.memory.storage": ("Storage",),
    "rtp_core.memory.buffer": (
        "Buffer",
        "Shape",
    ),
    "rtp_core.memory.qbuffer": (
        "Q4_0",
        "Q4_1",
        "Q4_K",
        "Q5_0",
        "Q5_1",
        "Q5_K",
        "Q6_K",
        "Q8_0",
        "QBuffer",
        "QuantScheme",
    ),
    "rtp_core.memory.space": (
        "HOST",
        "MemorySpace",
        "Region",
        "reserve_host",
    ),
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = ["dtypes", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = import_module("rtp_core.dtypes") if name == "dtypes" else getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
