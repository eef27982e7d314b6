"""Levels 3 to 5 of the ladder, and sampling. Layer ops return partial sums; the collective is called on level 4."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rtp_core.device import host_sampling
from rtp_core.device.attention_batch import AttentionBatch, EncoderBatch, ForwardBatch
from rtp_core.device.compositions import BIAS, Compositions
from rtp_core.device.op import composite
from rtp_core.device.weights import (
    AttentionWeights,
    EncoderWeights,
    FfnWeights,
    LayerWeights,
    ModelWeights,
    MoeWeights,
)
from rtp_core.memory.buffer import Buffer

LAYER_FEATURES = BIAS | {"qk_norm"}


class Layers(Compositions):
    """Whole blocks of a transformer."""

    # -- level 3 -------------------------------------------------------------------------------------------------

    @composite(3, features=LAYER_FEATURES)
    def attention_layer(
        self, x: Buffer, weights: AttentionWeights, kv: Buffer, batch: AttentionBatch, *, out: Buffer | None = None
    ) -> Buffer:
        """x, out: [T, E]; kv: this layer's [N, 2, K, B, D]. Only here a mixed batch splits in decode and prefill."""
        q, k, v = self.qkv_linear(x, weights)
        if weights.q_norm is not None and weights.k_norm is not None:
            q, k = self.qk_norm(q, k, weights.q_norm, weights.k_norm)
        q = self.rope_kv_write(q, k, v, kv, weights, batch)
        tokens, decode = x.shape[0], batch.num_decode
        attended = self.alloc((tokens, weights.num_heads, weights.head_dim), x.dtype, "attention")
        if decode:
            self.decoder_self_attention(q[:decode], kv, batch, scale=weights.scale, out=attended[:decode])
        if decode < tokens:
            self.context_attention(q[decode:], kv, batch, scale=weights.scale, out=attended[decode:])
        return self.linear(attended.view(tokens, weights.num_heads * weights.head_dim), weights.o, out=out)

    @composite(3, features=BIAS)
    def ffn_layer(self, x: Buffer, weights: FfnWeights, *, out: Buffer | None = None) -> Buffer:
        """down(activation(gate(x)) * up(x)), or down(activation(up(x))). x, out: [T, E]."""
        return self.linear(self._up(x, weights), weights.down, out=out)

    @composite(3, features=BIAS)
    def moe_layer(self, x: Buffer, weights: MoeWeights, *, out: Buffer | None = None) -> Buffer:
        """The weighted sum of each token's best experts. x, out: [T, E]."""
        gates, ids = self.moe_gate(x, weights)
        return self.moe_experts(x, gates, ids, weights.experts, out=out)

    # -- level 4 -------------------------------------------------------------------------------------------------

    @composite(4, features=LAYER_FEATURES | {"moe"})
    def decoder_layer(
        self, x: Buffer, residual: Buffer | None, weights: LayerWeights, kv: Buffer, batch: AttentionBatch
    ) -> tuple[Buffer, Buffer]:
        """One pre-norm layer: (x, residual), whose sum is its output. x, residual: [T, E]; None: the first layer.

        The caller gives up both: results may lie over them.
        """
        if residual is None:
            h, residual, spent = self._norm(x, weights.attention_norm), x, None
        else:
            h, residual = self.add_norm(x, residual, weights.attention_norm)
            spent = x  # its memory serves what comes next: three buffers go through all layers
        attended = self.communicator.all_reduce(self.attention_layer(h, weights.attention, kv, batch, out=spent))
        h, residual = self.add_norm(attended, residual, weights.ffn_norm, out=h)
        if isinstance(weights.ffn, MoeWeights):
            return self.communicator.all_reduce(self.moe_layer(h, weights.ffn, out=attended)), residual
        return self.communicator.all_reduce(self.ffn_layer(h, weights.ffn, out=attended)), residual

    @composite(4, features=BIAS | {"layer_norm", "moe"})
    def encoder_layer(self, x: Buffer, weights: LayerWeights, lengths: tuple[int, ...]) -> Buffer:
        """One post-norm layer without KV: every token sees its whole request. x: [T, E]; lengths sum to T."""
        q, k, v = self.qkv_linear(x, weights.attention)
        attended = self.alloc(q.shape, x.dtype, "attention")
        start = 0
        for length in lengths:
            stop = start + length
            k_r, v_r = k[start:stop].transpose(1, 0, 2), v[start:stop].transpose(1, 0, 2)
            self._attend(q[start:stop], k_r, v_r, None, weights.attention.scale, attended[start:stop])
            start = stop
        size = weights.attention.num_heads * weights.attention.head_dim
        y = self.communicator.all_reduce(self.linear(attended.view(x.shape[0], size), weights.attention.o))
        x, _ = self.add_norm(y, x, weights.attention_norm)
        ffn = weights.ffn
        y = self.moe_layer(x, ffn) if isinstance(ffn, MoeWeights) else self.ffn_layer(x, ffn)
        return self.add_norm(self.communicator.all_reduce(y), x, weights.ffn_norm)[0]

    # -- level 5 -------------------------------------------------------------------------------------------------

    @composite(5, features=LAYER_FEATURES | {"layer_norm", "moe", "encoder"})
    def model_forward(
        self, weights: ModelWeights | EncoderWeights, kv: tuple[Buffer, ...], batch: ForwardBatch | EncoderBatch
    ) -> Buffer:
        """Hidden states [T, E] after the last norm. The default is the model's own assembly. kv: one view a layer.

        With the feature "encoder" it gets EncoderWeights, no kv, and an EncoderBatch.
        """
        return weights.forward(self, weights, kv, batch)

    # -- sampling ------------------------------------------------------------------------------------------------

    @composite(5)
    def sample(
        self,
        logits: Buffer,
        *,
        temperature: NDArray[np.float32],
        top_k: NDArray[np.int64],
        top_p: NDArray[np.float32],
        min_p: NDArray[np.float32],
        uniforms: NDArray[np.float64],
    ) -> NDArray[np.int64]:
        """One token id per row [R]. logits: [R, V] float32; the rest: [R] on the host. See host_sampling.sample."""
        return host_sampling.sample(
            self.download(logits), temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, uniforms=uniforms
        )

    @composite(5)
    def mask_logits(self, logits: Buffer, allowed: NDArray[np.bool_]) -> Buffer:
        """Logits with -inf where a token is not allowed. logits: [R, V] float32; allowed: [R, V] on the host."""
        mask = self.upload(np.where(allowed, np.float32(0), np.float32(-np.inf)), "mask_logits")
        return self.add(logits, mask, out=logits)
