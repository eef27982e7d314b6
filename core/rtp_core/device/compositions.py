"""Levels 1 and 2 of the ladder, each with a default made of the rungs below."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rtp_core import dtypes
from rtp_core.device.attention_batch import AttentionBatch
from rtp_core.device.op import composite
from rtp_core.device.primitives import Primitives
from rtp_core.device.weights import AttentionWeights, FfnWeights, Linear, MoeWeights, Norm
from rtp_core.memory.buffer import Buffer

BIAS = frozenset({"bias"})


class Compositions(Primitives):
    """Fused element-wise work, linear layers, attention over blocked KV, experts."""

    # -- level 1 -------------------------------------------------------------------------------------------------

    @composite(1, features=frozenset({"layer_norm"}))
    def add_norm(self, x: Buffer, residual: Buffer, norm: Norm, *, out: Buffer | None = None) -> tuple[Buffer, Buffer]:
        """(normed, sum): sum = x + residual, normed = norm(sum). x, residual, both results: [T, E].

        The sum may be written over `residual`, which the caller gives up.
        """
        total = self.add(x, residual, out=residual)
        return self._norm(total, norm, out=out), total

    def _norm(self, x: Buffer, norm: Norm, *, out: Buffer | None = None) -> Buffer:
        if norm.bias is None:
            return self.rms_norm(x, norm.weight, eps=norm.eps, out=out)
        return self.layer_norm(x, norm.weight, norm.bias, eps=norm.eps, out=out)

    @composite(1, features=BIAS)
    def gemm_activation(self, x: Buffer, weight: Linear, *, kind: str, out: Buffer | None = None) -> Buffer:
        """out = kind(x @ weight.T + bias). x: [T, E]; out: [T, F]."""
        y = self.gemm(x, weight.weight, bias=weight.bias, trans_b=True, out=out)
        return self.activation(y, kind=kind, out=y)

    @composite(1)
    def gated_activation(self, x: Buffer, *, kind: str, out: Buffer | None = None) -> Buffer:
        """out = kind(x[:, :F]) * x[:, F:]. x: [T, 2F]; out: [T, F]."""
        half = x.shape[1] // 2
        gate = self.activation(x[:, :half], kind=kind, out=out)
        return self.mul(gate, x[:, half:], out=gate)

    @composite(1)
    def grouped_gemm(
        self, x: Buffer, weights: tuple[Buffer, ...], group_sizes: tuple[int, ...], *, out: Buffer | None = None
    ) -> Buffer:
        """Rows in groups, each with its own weight. x: [T, E]; weights: G of [F, E]; sizes sum to T; out: [T, F]."""
        if out is None:
            out = self.alloc((x.shape[0], weights[0].shape[0]), x.dtype, "grouped_gemm")
        start = 0
        for weight, size in zip(weights, group_sizes, strict=True):
            if size:
                self.gemm(x[start : start + size], weight, trans_b=True, out=out[start : start + size])
            start += size
        return out

    @composite(1)
    def concat(self, parts: tuple[Buffer, ...], *, axis: int = 0, out: Buffer | None = None) -> Buffer:
        """The parts one after the other along `axis`; their other axes agree."""
        if out is None:
            shape = list(parts[0].shape)
            shape[axis] = sum(part.shape[axis] for part in parts)
            out = self.alloc(tuple(shape), parts[0].dtype, "concat")
        start = 0
        for part in parts:
            stop = start + part.shape[axis]
            self.copy(out[(*[slice(None)] * axis, slice(start, stop))], part)
            start = stop
        return out

    @composite(1)
    def qk_norm(self, q: Buffer, k: Buffer, q_norm: Norm, k_norm: Norm) -> tuple[Buffer, Buffer]:
        """Each head of q [T, H, D] and k [T, K, D] normed in place."""
        return self._norm(q, q_norm, out=q), self._norm(k, k_norm, out=k)

    # -- level 2 -------------------------------------------------------------------------------------------------

    @composite(2, features=BIAS)
    def linear(self, x: Buffer, weight: Linear, *, out: Buffer | None = None) -> Buffer:
        """out = x @ weight.T + bias. x: [T, in]; out: [T, out]."""
        return self.gemm(x, weight.weight, bias=weight.bias, trans_b=True, out=out)

    @composite(2, features=BIAS)
    def qkv_linear(self, x: Buffer, weights: AttentionWeights) -> tuple[Buffer, Buffer, Buffer]:
        """q [T, H, D], k and v [T, K, D], views of one buffer. x: [T, E]."""
        tokens, dim = x.shape[0], weights.head_dim
        q_size, kv_size = weights.num_heads * dim, weights.num_kv_heads * dim
        qkv = self.alloc((tokens, q_size + 2 * kv_size), x.dtype, "qkv")
        start = 0
        for part in weights.qkv:
            stop = start + part.weight.shape[0]
            self.linear(x, part, out=qkv[:, start:stop])
            start = stop
        q = qkv[:, :q_size].view(tokens, weights.num_heads, dim)
        k = qkv[:, q_size : q_size + kv_size].view(tokens, weights.num_kv_heads, dim)
        v = qkv[:, q_size + kv_size :].view(tokens, weights.num_kv_heads, dim)
        return q, k, v

    @composite(2)
    def rope_kv_write(
        self, q: Buffer, k: Buffer, v: Buffer, kv: Buffer, weights: AttentionWeights, batch: AttentionBatch
    ) -> Buffer:
        """Rotate q [T, H, D] and k [T, K, D] in place, store k and v in the step's slots of `kv`, return q."""
        if weights.rope is not None:
            q = self.rope(q, weights.rope.cos, weights.rope.sin, batch.positions, out=q)
            k = self.rope(k, weights.rope.cos, weights.rope.sin, batch.positions, out=k)
        self.kv_write(kv, k, v, batch.slots)
        return q

    @composite(2)
    def context_attention(
        self, q: Buffer, kv: Buffer, batch: AttentionBatch, *, scale: float, out: Buffer | None = None
    ) -> Buffer:
        """Causal attention of the prefill requests. q, out: [tokens of prefill requests, H, D]; kv: [N, 2, K, B, D]."""
        if out is None:
            out = self.alloc(q.shape, q.dtype, "context_attention")
        first = int(batch.query_starts[batch.num_decode])
        for r in range(batch.num_decode, batch.num_requests):
            start, stop = int(batch.query_starts[r]) - first, int(batch.query_starts[r + 1]) - first
            self._attend_blocks(q[start:stop], kv, batch, r, scale, out[start:stop])
        return out

    @composite(2)
    def decoder_self_attention(
        self, q: Buffer, kv: Buffer, batch: AttentionBatch, *, scale: float, out: Buffer | None = None
    ) -> Buffer:
        """Attention of the decode requests, one query each. q, out: [num_decode, H, D]; kv: [N, 2, K, B, D]."""
        if out is None:
            out = self.alloc(q.shape, q.dtype, "decoder_self_attention")
        for r in range(batch.num_decode):
            self._attend_blocks(q[r : r + 1], kv, batch, r, scale, out[r : r + 1])
        return out

    def _attend_blocks(self, q: Buffer, kv: Buffer, batch: AttentionBatch, r: int, scale: float, out: Buffer) -> None:
        context = int(batch.context_lens[r])
        k, v = self.kv_gather(kv, batch.block_tables[r], context)
        mask = None if q.shape[0] <= 1 else self.upload(_causal_mask(q.shape[0], context), "attention_mask")
        self._attend(q, k, v, mask, scale, out)

    def _attend(self, q: Buffer, k: Buffer, v: Buffer, mask: Buffer | None, scale: float, out: Buffer) -> None:
        """q, out: [M, H, D]; k, v: [K, S, D]. Query heads h of one kv head are its group."""
        tokens, heads, dim = q.shape
        kv_heads, context = k.shape[0], k.shape[1]
        grouped = (tokens, kv_heads, heads // kv_heads, dim)
        k, v = k.view(kv_heads, 1, context, dim), v.view(kv_heads, 1, context, dim)
        scores = self.gemm(q.view(*grouped).transpose(1, 2, 0, 3), k, trans_b=True)
        scores = self.softmax(scores, scale=scale, mask=mask, out=scores)
        self.gemm(scores, v, out=out.view(*grouped).transpose(1, 2, 0, 3))

    @composite(2)
    def moe_gate(self, x: Buffer, weights: MoeWeights) -> tuple[Buffer, Buffer]:
        """Per token the weights [T, k] and ids [T, k] int32 of its k best experts. x: [T, E]."""
        logits = self.linear(x, weights.gate)
        if weights.renormalize:  # probabilities of the best k, made to sum to one, are the softmax of their logits
            best, ids = self.top_k(logits, weights.num_experts_per_token)
            return self.softmax(best, out=best), ids
        return self.top_k(self.softmax(logits, out=logits), weights.num_experts_per_token)

    @composite(2, features=BIAS)
    def moe_experts(
        self, x: Buffer, gates: Buffer, ids: Buffer, experts: tuple[FfnWeights, ...], *, out: Buffer | None = None
    ) -> Buffer:
        """out[t] = sum over j of gates[t, j] * experts[ids[t, j]](x[t]). x, out: [T, E]; gates, ids: [T, k].

        This default reads `ids` on the host.
        """
        chosen: NDArray[np.int32] = self.download(ids)
        tokens, k = chosen.shape
        by_expert = np.argsort(chosen.reshape(-1), kind="stable")
        rows = self.gather_rows(x, self.upload((by_expert // k).astype(np.int32), "moe_rows"))
        done = self.alloc(rows.shape, x.dtype, "moe_experts")
        start = 0
        for expert, size in zip(experts, np.bincount(chosen.reshape(-1), minlength=len(experts)).tolist(), strict=True):
            if size:
                self._expert(rows[start : start + size], expert, done[start : start + size])
            start += size
        place = np.argsort(by_expert).astype(np.int32).reshape(tokens, k)
        total = self._gated_rows(done, place[:, 0], gates[:, :1], out)
        for j in range(1, k):
            total = self.add(total, self._gated_rows(done, place[:, j], gates[:, j : j + 1], None), out=total)
        return total

    def _gated_rows(self, x: Buffer, rows: NDArray[np.int32], gates: Buffer, out: Buffer | None) -> Buffer:
        """out[t] = gates[t] * x[rows[t]]. gates: [T, 1]."""
        chosen = self.gather_rows(x, self.upload(rows, "moe_place"), out=out)
        return self.mul(chosen, gates, out=chosen)

    def _expert(self, x: Buffer, weights: FfnWeights, out: Buffer) -> None:
        self.linear(self._up(x, weights), weights.down, out=out)

    def _up(self, x: Buffer, weights: FfnWeights) -> Buffer:
        """The ffn's hidden state [T, F]. x: [T, E]."""
        if not weights.is_gated:
            return self.gemm_activation(x, weights.up[0], kind=weights.activation)
        both = self.alloc((x.shape[0], sum(part.weight.shape[0] for part in weights.up)), x.dtype, "ffn_up")
        start = 0
        for part in weights.up:
            stop = start + part.weight.shape[0]
            self.linear(x, part, out=both[:, start:stop])
            start = stop
        return self.gated_activation(both, kind=weights.activation)

    @composite(2, features=BIAS)
    def lm_head(self, x: Buffer, weight: Linear) -> Buffer:
        """Logits [R, V] float32. x: [R, E]."""
        logits = self.linear(x, weight)
        return logits if logits.dtype is dtypes.float32 else self.cast(logits, dtypes.float32)


def _causal_mask(queries: int, context: int) -> NDArray[np.float32]:
    """[queries, context], at least one query: query i, which is token context - queries + i, sees no later token."""
    line = np.zeros(context + queries - 1, np.float32)
    line[context:] = -np.inf
    step = line.itemsize  # each row is the row below, one to the right: all of them are pieces of one line
    return np.ndarray((queries, context), np.float32, line, offset=(queries - 1) * step, strides=(-step, step))
