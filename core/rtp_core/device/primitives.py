"""Level 0 of the ladder: what every device implements. The list is frozen within an API major.

Letters: T tokens, R requests, H query heads, K kv heads, D head_dim, E hidden_size, V vocabulary,
N blocks, B block size, P positions. Every op returns `out`, allocated under the op's name where the
caller gives none. Inputs may be strided views whose last axis is contiguous, unless an op says more.
Floats compute in float32 and are stored in the dtype of `out`.

A weight `b`, `table` or `x` of `dequantize` may be a QBuffer of a scheme that the manifest lists.
NumPy says what each means: see `reference_ops`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from rtp_core.device.op import primitive
from rtp_core.device.services import Services
from rtp_core.dtypes import DType
from rtp_core.memory.buffer import Buffer
from rtp_core.memory.qbuffer import QBuffer, QuantScheme


class Primitives(Services, ABC):
    """The ops a vendor writes to enter."""

    @primitive
    @abstractmethod
    def gather_rows(
        self, table: Buffer, ids: Buffer, *, dtype: DType | None = None, out: Buffer | None = None
    ) -> Buffer:
        """out[t] = table[ids[t]]. table: [V, E]; ids: [T] int32; out: [T, E] in `dtype` (default: the table's).

        A quantized table is dequantized to `dtype`, which then must be given.
        """

    @primitive
    @abstractmethod
    def gemm(
        self, a: Buffer, b: Buffer, *, bias: Buffer | None = None, trans_b: bool = False, out: Buffer | None = None
    ) -> Buffer:
        """out = a @ b + bias. a: [..., M, K]; b: [..., K, N], with trans_b [..., N, K]; bias: [N]; out: [..., M, N].

        Leading axes of b broadcast to a's (1 against n), so that query heads share a kv head. Any of a, b, out may
        be strided in every axis but the last; without trans_b b may be strided there too. A QBuffer b is [N, K]
        with trans_b. b may be stored in another float dtype than a.
        """

    @primitive
    @abstractmethod
    def add(self, a: Buffer, b: Buffer, *, out: Buffer | None = None) -> Buffer:
        """out = a + b. a, out: [T, E]; b: [T, E], one row [E], or one column [T, 1]."""

    @primitive
    @abstractmethod
    def mul(self, a: Buffer, b: Buffer, *, out: Buffer | None = None) -> Buffer:
        """out = a * b. Shapes as in add."""

    @primitive
    @abstractmethod
    def rms_norm(self, x: Buffer, weight: Buffer, *, eps: float, out: Buffer | None = None) -> Buffer:
        """out = x / sqrt(mean(x^2) + eps) * weight over the last axis. x, out: [..., E]; weight: [E]."""

    @primitive
    @abstractmethod
    def layer_norm(self, x: Buffer, weight: Buffer, bias: Buffer, *, eps: float, out: Buffer | None = None) -> Buffer:
        """out = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias over the last axis. x, out: [..., E]."""

    @primitive
    @abstractmethod
    def activation(self, x: Buffer, *, kind: str, out: Buffer | None = None) -> Buffer:
        """out = kind(x), one of ACTIVATIONS. x, out: [T, F]."""

    @primitive
    @abstractmethod
    def softmax(
        self,
        x: Buffer,
        *,
        scale: float = 1.0,
        softcap: float | None = None,
        mask: Buffer | None = None,
        out: Buffer | None = None,
    ) -> Buffer:
        """out = softmax(cap(x * scale) + mask) over the last axis; cap(y) = softcap * tanh(y / softcap), or y.

        x, out: [..., M, S]; mask: [M, S] float32, shared by the leading axes; a row of only -inf gives zeros.
        """

    @primitive
    @abstractmethod
    def rope(self, x: Buffer, cos: Buffer, sin: Buffer, positions: Buffer, *, out: Buffer | None = None) -> Buffer:
        """Rotate pairs (i, i + n) of each head by its position's angles; dims from 2n on pass through.

        x, out: [T, H, D]; cos, sin: [P, n] float32; positions: [T] int32. `out` may be x.
        Source: RoPE, arXiv:2104.09864, in the half-split form of Hugging Face's llama.
        """

    @primitive
    @abstractmethod
    def kv_write(self, kv: Buffer, k: Buffer, v: Buffer, slots: Buffer) -> None:
        """Put token t's k and v at slots[t] = block * B + offset. kv: [N, 2, K, B, D], strided; k, v: [T, K, D]."""

    @primitive
    @abstractmethod
    def kv_gather(self, kv: Buffer, block_table: Buffer, num_tokens: int) -> tuple[Buffer, Buffer]:
        """The first `num_tokens` (S) tokens of one request: k, v: [K, S, D]. kv: [N, 2, K, B, D]; block_table: [n]."""

    @primitive
    @abstractmethod
    def top_k(self, x: Buffer, k: int) -> tuple[Buffer, Buffer]:
        """Values [R, k] in x's dtype, descending, and indices [R, k] int32; equals by index. x: [R, V]."""

    @primitive
    @abstractmethod
    def cast(self, x: Buffer, dtype: DType, *, out: Buffer | None = None) -> Buffer:
        """out = x in another float dtype, to nearest even. x, out: [T, E]."""

    @primitive
    @abstractmethod
    def quantize(self, x: Buffer, scheme: QuantScheme) -> QBuffer:
        """x in groups along the last axis: a plain QBuffer. x: [N, K], K a multiple of the scheme's unit."""

    @primitive
    @abstractmethod
    def dequantize(self, x: QBuffer, *, dtype: DType, out: Buffer | None = None) -> Buffer:
        """The numbers that x stands for. x, out: [N, K]."""


ACTIVATIONS = ("gelu", "gelu_tanh", "relu", "sigmoid", "silu", "tanh")
