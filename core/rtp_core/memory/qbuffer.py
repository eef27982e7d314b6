"""QBuffer: one quantized tensor in one object, and the scheme that says what its codes mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Self

from rtp_core import dtypes
from rtp_core.dtypes import DType
from rtp_core.errors import ConfigError
from rtp_core.memory.buffer import Buffer, Shape

Packing = Literal["whole", "halves"]
_LARGEST_E4M3 = 448


@dataclass(frozen=True, slots=True)
class QuantScheme:
    """How codes stand for numbers. Groups of `group` neighbours along the last axis share a scale:

        value = scale * (code - offset) + zero

    `zero` is the group's own minimum where the scheme is asymmetric, else absent. `offset` is the
    code of 0 in symmetric schemes with unsigned codes. Scales and zeros are float16.

    `group` 0: the whole row shares one scale, which is float32: hardware can multiply all of its codes first. `codes`:
    whole numbers, or floats of 8 bits.

    `super_group`: where it is not 0, scales and zeros are whole numbers, and each `super_group` neighbours share
    a float16 factor of either; in float32, from left to right:

        value = (scale_factor * scale) * (code - offset) + zero_factor * zero

    Scales are then uint8, or int8 in symmetric schemes; zeros are uint8, so that a zero factor is what negative
    minima have in common.

    `packing`: "whole", a code a byte, signed where there are 8 bits; "halves" (4 bits), byte i of a group of G
    holds code i in its low and code i + G/2 in its high nibble. `activation` names the codes to which a device's fast
    path may quantize the other operand (symmetric, in groups of the same size); None means it stays in floats.
    """

    name: str
    bits: int
    group: int
    symmetric: bool
    packing: Packing = "whole"
    offset: int = 0
    activation: Literal["int8", "float8_e4m3fn"] | None = None
    super_group: int = 0
    codes: Literal["int", "float8_e4m3fn"] = "int"

    @property
    def payload_bytes(self) -> int:
        """Bytes of one group's codes; 0 where the row is the group."""
        return self.group // 2 if self.packing == "halves" else self.group

    @property
    def unit(self) -> int:
        """Columns come in multiples of this."""
        return self.super_group or self.group or 1

    @property
    def code_dtype(self) -> DType:
        if self.codes == "float8_e4m3fn":
            return dtypes.float8_e4m3fn
        return dtypes.int8 if self.bits == 8 else dtypes.uint8

    @property
    def largest_code(self) -> int:
        """Of signed codes: what the largest magnitude of a group becomes."""
        return _LARGEST_E4M3 if self.codes == "float8_e4m3fn" else 2 ** (self.bits - 1) - 1

    @property
    def scale_dtype(self) -> DType:
        """Of scales and zeros, or of their factors where there are such."""
        return dtypes.float16 if self.group else dtypes.float32

    def grouped(self, rows: int, columns: int) -> tuple[int, int, int]:
        """The shape of a matrix [rows, columns] in groups: [rows, groups, columns of a group]."""
        return (rows, columns // self.group, self.group) if self.group else (rows, 1, columns)

    @property
    def part_names(self) -> tuple[str, ...]:
        """The parts of a plain QBuffer, in their order."""
        numbers = ("scales",) if self.symmetric else ("scales", "zeros")
        factors = ("scale_factors", "zero_factors")[: len(numbers)] if self.super_group else ()
        return ("payload", *numbers, *factors)

    def parts(self, rows: int, columns: int) -> Mapping[str, tuple[Shape, DType]]:
        """Shape and dtype of each part of a plain matrix [rows, columns]. Columns: a multiple of `unit`."""
        grouped = self.grouped(rows, columns)
        groups, size = grouped[:2], grouped[2]
        payload = (*groups, size // 2 if self.packing == "halves" else size)
        forms: dict[str, tuple[Shape, DType]] = {"payload": (payload, self.code_dtype)}
        if not self.super_group:
            return forms | {name: (groups, self.scale_dtype) for name in self.part_names[1:]}
        factors = (rows, columns // self.super_group)
        forms["scales"] = (groups, dtypes.int8 if self.symmetric else dtypes.uint8)
        if not self.symmetric:
            forms["zeros"] = (groups, dtypes.uint8)
        return forms | {name: (factors, self.scale_dtype) for name in self.part_names[len(forms) :]}


# Source: the blocks of llama.cpp's ggml-common.h, from which checkpoint.gguf_blocks takes the parts.
Q4_0 = QuantScheme("q4_0", 4, 32, symmetric=True, packing="halves", offset=8, activation="int8")
Q4_1 = QuantScheme("q4_1", 4, 32, symmetric=False, packing="halves", activation="int8")
Q5_0 = QuantScheme("q5_0", 5, 32, symmetric=True, offset=16, activation="int8")
Q5_1 = QuantScheme("q5_1", 5, 32, symmetric=False, activation="int8")
Q8_0 = QuantScheme("q8_0", 8, 32, symmetric=True, activation="int8")
Q4_K = QuantScheme("q4_k", 4, 32, symmetric=False, packing="halves", activation="int8", super_group=256)
Q5_K = QuantScheme("q5_k", 5, 32, symmetric=False, activation="int8", super_group=256)
Q6_K = QuantScheme("q6_k", 6, 16, symmetric=True, offset=32, activation="int8", super_group=256)

# Source: compressed-tensors, num_bits 8, strategy "channel", with activations quantized token by token.
INT8_CHANNEL = QuantScheme("int8_channel", 8, 0, symmetric=True, activation="int8")
FP8_CHANNEL = QuantScheme("fp8_channel", 8, 0, symmetric=True, activation="float8_e4m3fn", codes="float8_e4m3fn")

SCHEMES: Mapping[str, QuantScheme] = {
    s.name: s for s in (Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0, INT8_CHANNEL, FP8_CHANNEL)
}


_PARTS = ("payload", "scales", "zeros", "scale_factors", "zero_factors")


class QBuffer(Buffer):
    """A quantized matrix [N, K]: payload [N, K/group, payload_bytes], scales and zeros [N, K/group].

    Where the row is the group that is [N, 1, K] and [N, 1]. Schemes with super-groups also have scale_factors and,
    with zeros, zero_factors [N, K/super_group]. `shape` is the logical one. `layout` is "plain" (as above), or a name
    of the device's own after its `prepare_weight`, in which only that device reads the parts. Slicing rows keeps all
    parts.
    """

    __slots__ = ("layout", "payload", "scale_factors", "scales", "scheme", "zero_factors", "zeros")

    def __init__(  # noqa: PLR0913 (one parameter a part)
        self,
        scheme: QuantScheme,
        shape: tuple[int, int],
        payload: Buffer,
        scales: Buffer,
        zeros: Buffer | None = None,
        scale_factors: Buffer | None = None,
        zero_factors: Buffer | None = None,
        *,
        layout: str = "plain",
    ) -> None:
        super().__init__(payload.storage, payload.dtype, shape, None, payload.offset)
        self.scheme, self.payload, self.scales, self.zeros, self.layout = scheme, payload, scales, zeros, layout
        self.scale_factors, self.zero_factors = scale_factors, zero_factors
        if layout == "plain":
            _check_plain(self)

    @classmethod
    def of_parts(
        cls, scheme: QuantScheme, shape: tuple[int, int], parts: Iterable[Buffer], *, layout: str = "plain"
    ) -> Self:
        """Of its scheme's parts, in the order of `scheme.part_names`."""
        return cls(scheme, shape, **dict(zip(scheme.part_names, parts, strict=True)), layout=layout)

    @property
    def nbytes(self) -> int:
        """Bytes of all parts together."""
        return sum(part.nbytes for part in self.parts)

    @property
    def parts(self) -> tuple[Buffer, ...]:
        """Those that there are, in the order of `scheme.part_names`."""
        return tuple(self.named_parts.values())

    @property
    def named_parts(self) -> dict[str, Buffer]:
        """`parts` by the names of the constructor's parameters."""
        every = {name: getattr(self, name) for name in _PARTS}
        return {name: part for name, part in every.items() if part is not None}

    def __getitem__(self, key: int | slice | tuple[int | slice, ...]) -> Self:
        """Rows `key` (one slice) with their scales; other views of codes have no meaning."""
        if not isinstance(key, slice) or self.layout != "plain":
            raise ConfigError(
                f"cannot take {key!r} of a quantized buffer", why=f"layout {self.layout!r}; plain ones give rows"
            )
        parts = [part[key] for part in self.parts]
        return type(self).of_parts(self.scheme, (parts[0].shape[0], self.shape[1]), parts)

    def view(self, *shape: int) -> Self:
        raise ConfigError("a quantized buffer has no other view", why=f"asked for {shape} of {self.shape}")

    def transpose(self, *axes: int) -> Self:
        raise ConfigError("a quantized buffer has no transposed view", hint="gemm takes trans_b")


def _check_plain(x: QBuffer) -> None:
    scheme, (rows, columns) = x.scheme, x.shape
    what = f"for {scheme.name} of shape {x.shape}"
    if columns % scheme.unit:
        raise ConfigError(f"bad columns {what}", why=f"expected a multiple of {scheme.unit}")
    forms = scheme.parts(rows, columns)
    for name in _PARTS:
        part: Buffer | None = getattr(x, name)
        got = None if part is None else (part.shape, part.dtype)
        expected = forms.get(name)
        if name == "payload" and part is not None and part.dtype.itemsize == 1:
            got = part.shape, forms[name][1]  # bytes are bytes, whatever their sign
        if got != expected:
            raise ConfigError(f"bad {name} {what}", why=f"expected {_told(expected)}, got {_told(got)}")


def _told(form: tuple[Shape, DType] | None) -> str:
    return "none" if form is None else f"{form[1]} {form[0]}"
