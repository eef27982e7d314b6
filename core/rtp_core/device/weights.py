"""The operands of the layer ops: weights with the constants that belong to them. Frozen, and without behaviour."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rtp_core.dtypes import DType
from rtp_core.memory.buffer import Buffer


@dataclass(frozen=True, slots=True)
class Linear:
    """y = x @ weight.T + bias. weight: Buffer or QBuffer [out, in]; bias: [out] or None."""

    weight: Buffer
    bias: Buffer | None = None


@dataclass(frozen=True, slots=True)
class Norm:
    """weight: [E]. With a bias [E] it is a layer norm, without one a root mean square norm."""

    weight: Buffer
    eps: float
    bias: Buffer | None = None


@dataclass(frozen=True, slots=True)
class RopeTables:
    """cos, sin: [max_model_len, D_rotated / 2] float32, by position."""

    cos: Buffer
    sin: Buffer


@dataclass(frozen=True, slots=True)
class AttentionWeights:
    """`qkv` is one matrix [(H + 2K) * D, E], or three where their schemes differ."""

    qkv: tuple[Linear, ...]
    o: Linear
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope: RopeTables | None = None
    q_norm: Norm | None = None
    k_norm: Norm | None = None

    @property
    def scale(self) -> float:
        """What q . k is multiplied with before the softmax."""
        return float(self.head_dim**-0.5)


@dataclass(frozen=True, slots=True)
class FfnWeights:
    """Gated: `up` is gate and up in one matrix [2F, E], or two where their schemes differ; else one [F, E]."""

    up: tuple[Linear, ...]
    down: Linear
    activation: str
    is_gated: bool = True


@dataclass(frozen=True, slots=True)
class MoeWeights:
    """gate: [num_experts, E]; each token goes to its `num_experts_per_token` best experts."""

    gate: Linear
    experts: tuple[FfnWeights, ...]
    num_experts_per_token: int
    renormalize: bool


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One transformer layer. Decoders norm before each block, encoders (post-norm) after it."""

    attention: AttentionWeights
    attention_norm: Norm
    ffn: FfnWeights | MoeWeights
    ffn_norm: Norm


@dataclass(frozen=True, slots=True)
class ModelWeights:
    """A whole model on one device, and `forward(ops, weights, kv, batch)`, its assembly over the ladder.

    embedding: [V, E], the same buffer as `lm_head.weight` where they are tied. `dtype`: of activations.
    """

    embedding: Buffer
    layers: tuple[LayerWeights, ...]
    norm: Norm
    lm_head: Linear
    dtype: DType
    forward: Callable[[Any, Any, Any, Any], Buffer]


@dataclass(frozen=True, slots=True)
class EncoderWeights:
    """A whole encoder on one device; `forward` and `dtype` as those of ModelWeights.

    embedding: [V, E]; positions: [max_model_len, E], the segment that all texts are in added to each; norm: of the
    sum of both.
    """

    embedding: Buffer
    positions: Buffer
    norm: Norm
    layers: tuple[LayerWeights, ...]
    dtype: DType
    forward: Callable[[Any, Any, Any, Any], Buffer]
