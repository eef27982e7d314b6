"""From a checkpoint's tensors to weights on a device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtp_core.device import reference_ops
from rtp_core.device.device import Device
from rtp_core.dtypes import DType
from rtp_core.memory.buffer import Buffer
from rtp_core.memory.qbuffer import QBuffer, QuantScheme
from rtp_core.models.weight_reader import Precision, WeightReader


class WeightLoader(WeightReader):
    """The reader that a model is run from: converts on the host, and lets the device prepare what it gets."""

    def __init__(
        self,
        device: Device,
        tensors: Mapping[str, Buffer],
        header: Mapping[str, Buffer],
        precision: Precision,
        where: str,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        super().__init__(header, precision, device.manifest, where, progress)
        self._device, self._tensors = device, tensors

    def upload(self, array: NDArray[Any], tag: str) -> Buffer:
        return self._device.upload(array, tag)

    def _contents(self, tensor: Buffer, name: str) -> Buffer:
        return self._tensors[name]

    def _convert(self, tensor: Buffer, form: DType | QuantScheme, name: str) -> Buffer:
        if isinstance(tensor, QBuffer):
            if isinstance(form, QuantScheme):
                return tensor
            return Buffer.borrow(_dequantized(tensor).astype(form.numpy, copy=False), name)
        if isinstance(form, QuantScheme):
            return _quantized(tensor, form, name)
        if tensor.dtype is form:
            return tensor
        return Buffer.borrow(np.ascontiguousarray(tensor.numpy().astype(form.numpy)), name)

    def _prepare(self, matrices: list[Buffer], tag: str) -> Buffer:
        merged = matrices[0] if len(matrices) == 1 else _merged(matrices, tag)
        return self._device.prepare_weight(merged, tag)


def _merged(matrices: list[Buffer], tag: str) -> Buffer:
    """One matrix with the rows of all, stored alike, in host memory of its own."""
    quantized = [m for m in matrices if isinstance(m, QBuffer)]
    if not quantized:
        return Buffer.borrow(np.concatenate([m.numpy() for m in matrices]), tag)
    first = quantized[0]
    shape = (sum(m.shape[0] for m in quantized), first.shape[1])
    blocks = [found for m in quantized if (found := _blocks(m)) is not None]
    if len(blocks) == len(quantized):
        whole = Buffer.borrow(np.concatenate(blocks), tag).storage
        parts = [Buffer(whole, p.dtype, (shape[0], *p.shape[1:]), p.strides, p.offset) for p in first.parts]
    else:
        columns = zip(*(m.parts for m in quantized), strict=True)
        parts = [Buffer.borrow(np.concatenate([part.numpy() for part in column]), tag) for column in columns]
    return QBuffer.of_parts(first.scheme, shape, parts)


def _blocks(matrix: QBuffer) -> NDArray[np.uint8] | None:
    """All of a matrix's parts as one run of bytes, where that is how they are stored: row after row, as in a file."""
    storage = matrix.storage
    is_one = all(part.storage is storage for part in matrix.parts) and storage.nbytes == matrix.nbytes
    return storage.host_bytes() if is_one else None


def _dequantized(tensor: QBuffer) -> reference_ops.Floats:
    return reference_ops.dequantize([part.numpy() for part in tensor.parts], tensor.scheme)


def _quantized(tensor: Buffer, scheme: QuantScheme, tag: str) -> QBuffer:
    parts = [Buffer.borrow(part, tag) for part in reference_ops.quantize(tensor.numpy(), scheme)]
    return QBuffer.of_parts(scheme, (tensor.shape[0], tensor.shape[1]), parts)
