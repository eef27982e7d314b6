"""QBuffer: one quantized tensor in one object, and the scheme that says what its codes mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

from rtp_core.errors import ConfigError
from rtp_core.memory.buffer import Buffer

Packing = Literal["whole", "halves"]


@dataclass(frozen=True, slots=True)
class QuantScheme:
    """How codes stand for numbers. Groups of `group` neighbours along the last axis share a scale:

        value = scale * (code - offset) + zero

    `zero` is the group's own minimum where the scheme is asymmetric, else absent. `offset` is the
    code of 0 in symmetric schemes with unsigned codes.

    `packing`: "whole", a code a byte; "halves" (4 bits), byte i of a group of G holds code i in its
    low and code i + G/2 in its high nibble. `activation` names how a device's fast path may quantize
    the other operand ("int8": symmetric, per group of the same size); None means it stays in floats.
    """

    name: str
    bits: int
    group: int
    symmetric: bool
    packing: Packing = "whole"
    offset: int = 0
    activation: Literal["int8"] | None = None

    @property
    def payload_bytes(self) -> int:
        """Bytes of one group's codes."""
        return self.group * self.bits // 8


# Source: the block layouts of llama.cpp's ggml-common.h (block_q4_0, block_q4_1, block_q8_0).
Q4_0 = QuantScheme("q4_0", 4, 32, symmetric=True, packing="halves", offset=8, activation="int8")
Q4_1 = QuantScheme("q4_1", 4, 32, symmetric=False, packing="halves", activation="int8")
Q8_0 = QuantScheme("q8_0", 8, 32, symmetric=True, activation="int8")


class QBuffer(Buffer):
    """A quantized matrix [N, K]: payload [N, K/group, payload_bytes], scales and zeros [N, K/group].

    `shape` is the logical one. `layout` is "plain" (as above), or a name of the device's own after its
    `prepare_weight`, in which only that device reads the parts. Slicing rows keeps scales and zeros.
    """

    __slots__ = ("layout", "payload", "scales", "scheme", "zeros")

    def __init__(
        self,
        scheme: QuantScheme,
        shape: tuple[int, int],
        payload: Buffer,
        scales: Buffer,
        zeros: Buffer | None = None,
        *,
        layout: str = "plain",
    ) -> None:
        if layout == "plain":
            _check_plain(scheme, shape, payload, scales, zeros)
        super().__init__(payload.storage, payload.dtype, shape, None, payload.offset)
        self.scheme, self.payload, self.scales, self.zeros, self.layout = scheme, payload, scales, zeros, layout

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and zeros together."""
        return self.payload.nbytes + self.scales.nbytes + (0 if self.zeros is None else self.zeros.nbytes)

    @property
    def parts(self) -> tuple[Buffer, ...]:
        """Payload, scales and, where there are any, zeros."""
        return (self.payload, self.scales) if self.zeros is None else (self.payload, self.scales, self.zeros)

    def __getitem__(self, key: int | slice | tuple[int | slice, ...]) -> Self:
        """Rows `key` (one slice) with their scales; other views of codes have no meaning."""
        if not isinstance(key, slice) or self.layout != "plain":
            raise ConfigError(
                f"cannot take {key!r} of a quantized buffer", why=f"layout {self.layout!r}; plain ones give rows"
            )
        payload = self.payload[key]
        zeros = None if self.zeros is None else self.zeros[key]
        return type(self)(self.scheme, (payload.shape[0], self.shape[1]), payload, self.scales[key], zeros)

    def view(self, *shape: int) -> Self:
        raise ConfigError("a quantized buffer has no other view", why=f"asked for {shape} of {self.shape}")

    def transpose(self, *axes: int) -> Self:
        raise ConfigError("a quantized buffer has no transposed view", hint="gemm takes trans_b")


def _check_plain(
    scheme: QuantScheme, shape: tuple[int, int], payload: Buffer, scales: Buffer, zeros: Buffer | None
) -> None:
    rows, columns = shape
    groups, rest = divmod(columns, scheme.group)
    expected = (rows, groups, scheme.payload_bytes)
    if rest or payload.shape != expected or payload.dtype.itemsize != 1:
        raise ConfigError(
            f"bad payload for {scheme.name} of shape {shape}",
            why=f"expected bytes {expected} in groups of {scheme.group}, got {payload.dtype} {payload.shape}",
        )
    zeros_shape = None if zeros is None else zeros.shape
    if scales.shape != (rows, groups) or zeros_shape != (None if scheme.symmetric else (rows, groups)):
        raise ConfigError(
            f"bad scales or zeros for {scheme.name} of shape {shape}",
            why=f"expected {(rows, groups)}, zeros if asymmetric; got scales {scales.shape}, zeros {zeros_shape}",
        )
