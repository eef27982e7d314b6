"""The public face of the contract: all that a plugin imports from rtp_core."""

from rtp_core import dtypes
from rtp_core.device.attention_batch import AttentionBatch, ForwardBatch
from rtp_core.device.device import OPS, PRIMITIVES, Device
from rtp_core.device.hooks import hookimpl
from rtp_core.device.kv_layout import KVLayout
from rtp_core.device.manifest import PLUGIN_API, DeviceConfig, DeviceInfo, Manifest
from rtp_core.device.op import YES, No, Override, Predicate, Signature, Yes, overrides
from rtp_core.device.primitives import ACTIVATIONS
from rtp_core.device.services import Communicator, Event, host_memory_info
from rtp_core.device.weights import (
    AttentionWeights,
    FfnWeights,
    LayerWeights,
    Linear,
    ModelWeights,
    MoeWeights,
    Norm,
    RopeTables,
)
from rtp_core.dtypes import DType
from rtp_core.errors import ConfigError, ContractError, DeviceError, OutOfMemoryError, RtpError
from rtp_core.memory.arena import Storage
from rtp_core.memory.buffer import Buffer, Shape
from rtp_core.memory.qbuffer import Q4_0, Q4_1, Q8_0, QBuffer, QuantScheme
from rtp_core.memory.space import HOST, MemorySpace, Region, reserve_host

__all__ = [
    "ACTIVATIONS",
    "HOST",
    "OPS",
    "PLUGIN_API",
    "PRIMITIVES",
    "Q4_0",
    "Q4_1",
    "Q8_0",
    "YES",
    "AttentionBatch",
    "AttentionWeights",
    "Buffer",
    "Communicator",
    "ConfigError",
    "ContractError",
    "DType",
    "Device",
    "DeviceConfig",
    "DeviceError",
    "DeviceInfo",
    "Event",
    "FfnWeights",
    "ForwardBatch",
    "KVLayout",
    "LayerWeights",
    "Linear",
    "Manifest",
    "MemorySpace",
    "ModelWeights",
    "MoeWeights",
    "No",
    "Norm",
    "OutOfMemoryError",
    "Override",
    "Predicate",
    "QBuffer",
    "QuantScheme",
    "Region",
    "RopeTables",
    "RtpError",
    "Shape",
    "Signature",
    "Storage",
    "Yes",
    "dtypes",
    "hookimpl",
    "host_memory_info",
    "overrides",
    "reserve_host",
]
