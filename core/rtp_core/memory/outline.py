"""Outlines: buffers that have a shape and a form, and no memory."""

from __future__ import annotations

from math import prod

from rtp_core.dtypes import DType
from rtp_core.memory.buffer import Buffer, Shape
from rtp_core.memory.qbuffer import QBuffer, QuantScheme
from rtp_core.memory.space import NOWHERE
from rtp_core.memory.storage import Storage


def outline(shape: Shape, form: DType | QuantScheme) -> Buffer:
    """What a plan and a memory need are told from: a Buffer, or of a scheme a plain QBuffer. Nothing can read it."""
    if isinstance(form, DType):
        return Buffer(Storage(NOWHERE, 0, prod(shape) * form.itemsize, "outline"), form, shape)
    rows, columns = shape
    return QBuffer.of_parts(form, (rows, columns), [outline(*part) for part in form.parts(rows, columns).values()])
