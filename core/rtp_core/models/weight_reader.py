"""What a model takes its weights from: names and shapes checked, schemes decided, nothing left over.

Where the weights then are, and whether they have contents, is for the two readers to say: `weight_loader` brings
them onto a device, `weight_sketch` only says what they would be there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtp_core import dtypes
from rtp_core.config import ModelConfig
from rtp_core.device import reference_ops
from rtp_core.device.device import Device
from rtp_core.device.manifest import Manifest
from rtp_core.device.weights import Linear, Norm
from rtp_core.dtypes import DType
from rtp_core.errors import CheckpointError, ConfigError, ContractError
from rtp_core.memory.buffer import Buffer
from rtp_core.memory.qbuffer import SCHEMES, QBuffer, QuantScheme
from rtp_core.models.rope_tables import rope_tables

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Precision:
    """What weights become on a device. `dtype`: of activations.

    `keeps_storage` ("auto"): float weights stay as stored and quantized ones quantized, as far as the device
    has them. Otherwise every weight becomes `dtype`, dequantized exactly. `quantization` quantizes float
    matrices at load, `linear_quantization` only those of linear layers.
    """

    dtype: DType
    keeps_storage: bool
    quantization: QuantScheme | None = None
    linear_quantization: QuantScheme | None = None

    @classmethod
    def of(cls, device: Device, dtype: str, quantization: str | None, *, is_encoder: bool = False) -> Precision:
        """Raises ConfigError for a dtype or scheme that the device does not have."""
        return cls.by_manifest(
            device.manifest, device.default_dtype, dtype, quantization, device.info.id, is_encoder=is_encoder
        )

    @classmethod
    def by_manifest(
        cls,
        manifest: Manifest,
        default_dtype: str,
        dtype: str,
        quantization: str | None,
        where: str,
        *,
        is_encoder: bool = False,
    ) -> Precision:
        """`of`, for a device that need not be there."""
        name = default_dtype if dtype == AUTO else dtype
        if name not in manifest.dtypes:
            raise ConfigError(f"dtype is {name!r}", where=where, why=f"it has {', '.join(manifest.dtypes)}")
        if quantization is None:
            linear = _encoder_scheme(manifest) if is_encoder and dtype == AUTO else None
            return cls(dtypes.parse(name), dtype == AUTO, None, linear)
        if quantization not in SCHEMES or quantization not in manifest.schemes or dtype != AUTO:
            known = ", ".join(sorted(set(SCHEMES) & set(manifest.schemes))) or "none"
            raise ConfigError(f"quantization is {quantization!r}", where=where, why=f"with dtype auto it has {known}")
        return cls(dtypes.parse(name), True, SCHEMES[quantization])


class WeightReader(ABC):
    """Takes tensors out of a checkpoint by Hugging Face's names, each once.

    `header`: what tensors there are. Every method raises CheckpointError for a missing or misshapen one,
    OutOfMemoryError from a device. `progress(done, total)` counts the bytes of its buffers.
    """

    def __init__(
        self,
        header: Mapping[str, Buffer],
        precision: Precision,
        manifest: Manifest,
        where: str,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self._header, self._precision, self._manifest, self._where = header, precision, manifest, where
        self._progress, self._done = progress, 0
        self._total = sum(tensor.nbytes for tensor in header.values())
        self._taken: set[str] = set()

    @abstractmethod
    def upload(self, array: NDArray[Any], tag: str) -> Buffer:
        """A buffer of the device with the contents of a host array."""

    @abstractmethod
    def _convert(self, tensor: Buffer, form: DType | QuantScheme, name: str) -> Buffer:
        """A matrix of the checkpoint in the form that it will have on the device."""

    @abstractmethod
    def _prepare(self, matrices: list[Buffer], tag: str) -> Buffer:
        """Converted matrices of one form as one, on the device."""

    @property
    def precision(self) -> Precision:
        return self._precision

    def has(self, name: str) -> bool:
        return name in self._header

    def norm(self, name: str, size: int, eps: float) -> Norm:
        """A root mean square norm's weight [size]."""
        return Norm(self._vector(name, size), eps)

    def layer_norm(self, name: str, size: int, eps: float) -> Norm:
        """A layer norm's weight and bias [size], which the oldest files call gamma and beta."""
        weight, bias = ("gamma", "beta") if self.has(f"{name}.gamma") else ("weight", "bias")
        return Norm(self._vector(f"{name}.{weight}", size), eps, self._vector(f"{name}.{bias}", size))

    def positions(self, name: str, rows: int, columns: int, *, segments: tuple[str, int], num: int) -> Buffer:
        """The first `num` rows of a table [rows, columns], each with the first row of the table `segments` added."""
        table = self._host_rows(name, (rows, columns), num)
        segment = self._host_rows(segments[0], (segments[1], columns), 1)
        return self.upload((table + segment).astype(self._precision.dtype.numpy), name)

    def embedding(self, name: str, rows: int, columns: int) -> Buffer:
        """A table [rows, columns], quantized or not."""
        return self._prepare([self._matrix(name, rows, columns, self._precision.quantization)], name)

    def linear(self, parts: Sequence[tuple[str, int]], columns: int, *, bias: bool) -> tuple[Linear, ...]:
        """Matrices (name, rows) that read the same input: one merged, or one each where they are stored differently."""
        scheme = self._precision.quantization or self._precision.linear_quantization
        matrices = [self._matrix(f"{name}.weight", rows, columns, scheme) for name, rows in parts]
        groups = (
            [list(range(len(parts)))] if len({_kind(m) for m in matrices}) == 1 else [[i] for i in range(len(parts))]
        )
        result = []
        for group in groups:
            tag = "+".join(parts[i][0].rpartition(".")[2] for i in group)
            weight = self._prepare([matrices[i] for i in group], tag)
            if bias:
                values = [self._host_vector(f"{parts[i][0]}.bias", parts[i][1]) for i in group]
                result.append(Linear(weight, self.upload(np.concatenate(values), f"{tag}.bias")))
            else:
                result.append(Linear(weight))
        return tuple(result)

    def rope_tables(
        self, config: ModelConfig, num_positions: int, factors: NDArray[np.float32] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """cos and sin by position, on the host."""
        return rope_tables(config, num_positions, factors)

    def vector_or_none(self, name: str, size: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]] | None:
        """A vector [size] on the host in float32, where the checkpoint has it."""
        return reference_ops.f32(self._take(name, (size,)).numpy()) if self.has(name) else None

    def ignore(self, *names: str) -> None:
        """Tensors that may be there and are not needed."""
        self._taken.update(names)

    def ignore_below(self, prefix: str) -> None:
        """Tensors whose names begin so."""
        self._taken.update(name for name in self._header if name.startswith(prefix))

    def finish(self) -> None:
        """Raises CheckpointError where the checkpoint has tensors that nobody took: the model would not be this one."""
        extra = sorted(set(self._header) - self._taken)
        if extra:
            names = ", ".join(extra[:5]) + (", ..." if len(extra) > 5 else "")
            raise CheckpointError(f"{len(extra)} unexpected tensors", where=self._where, why=names)

    def _vector(self, name: str, size: int) -> Buffer:
        return self.upload(self._host_vector(name, size), _of_all_layers(name))

    def _host_vector(self, name: str, size: int) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
        return self._take(name, (size,)).numpy().astype(self._precision.dtype.numpy)

    def _host_rows(self, name: str, shape: tuple[int, int], num: int) -> NDArray[np.float32]:
        tensor = self._take(name, shape)
        if isinstance(tensor, QBuffer):
            raise CheckpointError(f"tensor {name} is quantized", where=self._where, why="expected floats")
        return reference_ops.f32(tensor.numpy()[:num])

    def _matrix(self, name: str, rows: int, columns: int, scheme: QuantScheme | None) -> Buffer:
        """The tensor as it will be stored, on the host. `scheme`: for one of floats whose rows it can take."""
        tensor = self._take(name, (rows, columns))
        return self._convert(tensor, stored_as(tensor, scheme, self._precision, self._manifest), name)

    def _take(self, name: str, shape: tuple[int, ...]) -> Buffer:
        tensor = self._header.get(name)
        if tensor is None:
            raise CheckpointError(f"tensor {name} is missing", where=self._where)
        if tensor.shape != shape:
            raise CheckpointError(
                f"tensor {name} is misshapen", where=self._where, why=f"expected {shape}, got {tensor.shape}"
            )
        if not isinstance(tensor, QBuffer) and not tensor.dtype.is_floating:
            raise CheckpointError(f"tensor {name} has integers", where=self._where, why="expected floats")
        if name not in self._taken:
            self._taken.add(name)
            self._done += tensor.nbytes
            self._progress(self._done, self._total)
        return self._contents(tensor, name)

    def _contents(self, tensor: Buffer, name: str) -> Buffer:
        """The tensor to convert: the header's own where that one can be read, or need not be."""
        return tensor


def _encoder_scheme(manifest: Manifest) -> QuantScheme | None:
    """What float weights of an encoder's linear layers become. Raises ContractError for a scheme not known here."""
    name = manifest.encoder_scheme
    if name is None or name in SCHEMES:
        return None if name is None else SCHEMES[name]
    why = f"core can quantize to {', '.join(sorted(SCHEMES))}"
    raise ContractError(f"bad encoder_scheme {name!r}", where=f"the manifest of {manifest.kind}", why=why)


def stored_as(
    tensor: Buffer, scheme: QuantScheme | None, precision: Precision, manifest: Manifest
) -> DType | QuantScheme:
    """What a matrix of a checkpoint becomes on a device with this manifest.

    `scheme`: for one of floats whose rows it can take.
    """
    if isinstance(tensor, QBuffer):
        keeps = precision.keeps_storage and tensor.scheme.name in manifest.schemes
        return tensor.scheme if keeps else precision.dtype
    if scheme is not None and tensor.shape[1] % scheme.unit == 0:
        return scheme
    keeps = precision.keeps_storage and tensor.dtype.name in manifest.dtypes
    return tensor.dtype if keeps else precision.dtype


def _of_all_layers(name: str) -> str:
    """One tag for what each layer has: `model.layers.*.input_layernorm.weight`."""
    return ".".join("*" if part.isdecimal() else part for part in name.split("."))


def _kind(matrix: Buffer) -> str:
    return matrix.scheme.name if isinstance(matrix, QBuffer) else matrix.dtype.name
