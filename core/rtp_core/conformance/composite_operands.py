"""How the suite calls each composite. Sizes are the bench's; letters as in `device.primitives`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rtp_core import dtypes
from rtp_core.conformance.attention_step import Step, mixed_requests
from rtp_core.conformance.bench import Bench, Role
from rtp_core.conformance.call import Call, call, declared, operands
from rtp_core.device.attention_batch import EncoderBatch, ForwardBatch
from rtp_core.device.weights import (
    AttentionWeights,
    EncoderWeights,
    FfnWeights,
    LayerWeights,
    Linear,
    ModelWeights,
    MoeWeights,
    Norm,
)
from rtp_core.memory.buffer import Buffer

EPS = 1e-5
EXPERTS, CHOSEN = 5, 2
LAYER_FEATURES = ("bias", "qk_norm")


# -- weights -------------------------------------------------------------------------------------------------------


def linear(b: Bench, size: int, columns: int) -> Linear:
    weight = b.matrix(size, columns)
    return Linear(weight, b.vector_or_none("bias", size))


def norm(b: Bench, size: int, *, has_choice: bool = True) -> Norm:
    return Norm(b.normal(size), EPS, b.vector_or_none("layer_norm", size) if has_choice else None)


def attention(b: Bench, step: Step | None = None, *, is_split: bool = False) -> AttentionWeights:
    dims = b.dims
    sizes = (dims.q_size, dims.kv_size, dims.kv_size)
    qkv = tuple(linear(b, size, dims.hidden_size) for size in (sizes if is_split else (sum(sizes),)))
    norms = [norm(b, dims.head_dim, has_choice=False) if "qk_norm" in b.features else None for _ in range(2)]
    o, rope = linear(b, dims.hidden_size, dims.q_size), None if step is None else step.rope
    heads = dims.num_attention_heads, dims.num_key_value_heads, dims.head_dim
    return AttentionWeights(qkv, o, *heads, rope, *norms)


def ffn(b: Bench, *, is_gated: bool = True, is_split: bool = False) -> FfnWeights:
    hidden, inner = b.dims.hidden_size, b.dims.intermediate_size
    down = linear(b, hidden, inner)
    if not is_gated:
        return FfnWeights((linear(b, inner, hidden),), down, "gelu", is_gated=False)
    sizes = (inner, inner) if is_split else (2 * inner,)
    return FfnWeights(tuple(linear(b, size, hidden) for size in sizes), down, "silu")


def moe(b: Bench, *, renormalize: bool, has_ties: bool = False) -> tuple[Buffer, MoeWeights]:
    """Tokens are rows of a unit matrix: the gate's logits are exact, so that no dtype reorders the experts.

    With ties all logits are zero, whatever the tokens: the first experts are chosen.
    """
    tokens = np.eye(b.rows, b.dims.hidden_size)
    tokens[b.dims.hidden_size :, 0] = 1
    ranks = np.stack([b.rng.permutation(EXPERTS) for _ in range(b.dims.hidden_size)])
    gate = Linear(b.place(ranks.T * (0 if has_ties else 0.5)))
    experts = tuple(ffn(b) for _ in range(EXPERTS))
    return b.place(tokens), MoeWeights(gate, experts, CHOSEN, renormalize)


# -- level 1 -------------------------------------------------------------------------------------------------------


@operands("add_norm", features={"layer_norm"})
def tokens_and_residual(b: Bench) -> Call:
    shape = b.rows, b.dims.hidden_size
    return call(b.normal(*shape), b.normal(*shape, role=Role.SPENT), norm(b, b.dims.hidden_size))


@operands("gemm_activation", features={"bias"}, weights="any")
def product_and_gelu(b: Bench) -> Call:
    x = b.normal(b.rows, b.dims.hidden_size)
    return call(x, linear(b, b.dims.intermediate_size, b.dims.hidden_size), kind="gelu_tanh")


@operands("gated_activation")
def silu(b: Bench) -> Call:
    return call(b.normal(b.rows, 2 * b.dims.intermediate_size), kind="silu")


@operands("gated_activation")
def gelu(b: Bench) -> Call:
    return call(b.normal(b.rows, 2 * b.dims.intermediate_size), kind="gelu")


@operands("grouped_gemm", weights="any")
def groups_of_which_one_is_empty(b: Bench) -> Call:
    x = b.normal(b.rows, b.dims.hidden_size)
    weights = tuple(b.matrix(b.dims.intermediate_size, b.dims.hidden_size) for _ in range(3))
    first = b.rows // 2
    return call(x, weights, (first, 0, b.rows - first))


@operands("concat")
def rows(b: Bench) -> Call:
    return call((b.normal(b.rows, 5), b.normal(3, 5)))


@operands("concat")
def columns(b: Bench) -> Call:
    return call((b.normal(b.rows, 7)[:, 2:], b.normal(b.rows, 5)[:, :3]), axis=1)


@operands("qk_norm")
def heads(b: Bench) -> Call:
    dims = b.dims
    q = b.normal(b.rows, dims.num_attention_heads, dims.head_dim, role=Role.SPENT)
    k = b.normal(b.rows, dims.num_key_value_heads, dims.head_dim, role=Role.SPENT)
    return call(q, k, norm(b, dims.head_dim), norm(b, dims.head_dim))


# -- level 2 -------------------------------------------------------------------------------------------------------


@operands("linear", features={"bias"}, weights="any")
def weight(b: Bench) -> Call:
    return call(b.normal(b.rows, b.dims.hidden_size), linear(b, b.dims.intermediate_size, b.dims.hidden_size))


@operands("qkv_linear", features={"bias"}, weights="any")
def one_matrix(b: Bench) -> Call:
    return call(b.normal(b.rows, b.dims.hidden_size), attention(b))


@operands("qkv_linear", features={"bias"}, weights="any")
def three_matrices(b: Bench) -> Call:
    return call(b.normal(b.rows, b.dims.hidden_size), attention(b, is_split=True))


@operands("rope_kv_write", min_rows=5)
def mixed_tokens(b: Bench) -> Call:
    step, dims = Step(b, mixed_requests(b), role=Role.WRITTEN), b.dims
    q = b.normal(step.num_tokens, dims.num_attention_heads, dims.head_dim, role=Role.SPENT)
    k = b.normal(step.num_tokens, dims.num_key_value_heads, dims.head_dim, role=Role.SPENT)
    v = b.normal(step.num_tokens, dims.num_key_value_heads, dims.head_dim)
    return call(q, k, v, step.cache.kv, attention(b, step), step.batch)


@operands("context_attention", min_rows=5)
def prefill_of_a_mixed_batch(b: Bench) -> Call:
    return _attend(b, mixed_requests(b), is_decode=False)


@operands("context_attention", min_rows=1)
def prefill_alone(b: Bench) -> Call:
    return _attend(b, ((b.block_size + b.rows + 1, b.rows + 1),), is_decode=False)


@operands("decoder_self_attention", min_rows=5)
def decode_of_a_mixed_batch(b: Bench) -> Call:
    return _attend(b, mixed_requests(b), is_decode=True)


@operands("decoder_self_attention", min_rows=1)
def decode_alone(b: Bench) -> Call:
    return _attend(b, tuple((i % 5 * b.block_size + 1, 1) for i in range(b.rows)), is_decode=True)


def _attend(b: Bench, requests: Sequence[tuple[int, int]], *, is_decode: bool) -> Call:
    step = Step(b, requests)
    queries = step.num_decode if is_decode else step.num_tokens - step.num_decode
    q = b.normal(queries, b.dims.num_attention_heads, b.dims.head_dim)
    return call(q, step.cache.kv, step.batch, scale=float(b.dims.head_dim**-0.5))


@operands("moe_gate")
def renormalized(b: Bench) -> Call:
    return call(*moe(b, renormalize=True))


@operands("moe_gate")
def plain(b: Bench) -> Call:
    return call(*moe(b, renormalize=False))


@operands("moe_experts", features={"bias"}, weights="any")
def experts_of_which_some_are_idle(b: Bench) -> Call:
    x, gates = b.normal(b.rows, b.dims.hidden_size), b.place(b.rng.random((b.rows, CHOSEN)))
    ids = np.array([b.rng.permutation(EXPERTS - 1)[:CHOSEN] for _ in range(b.rows)]).reshape(b.rows, CHOSEN)
    return call(x, gates, b.ids(ids), tuple(ffn(b) for _ in range(EXPERTS)))


@operands("lm_head", features={"bias"}, weights="any")
def logits(b: Bench) -> Call:
    x = b.normal(b.rows, b.dims.hidden_size)
    return call(x, linear(b, b.dims.vocab_size, b.dims.hidden_size), result=dtypes.float32)


# -- levels 3 to 5 -------------------------------------------------------------------------------------------------


@operands("attention_layer", features=LAYER_FEATURES, weights="any", min_rows=5)
def mixed_layer(b: Bench) -> Call:
    step = Step(b, mixed_requests(b), role=Role.WRITTEN)
    return call(b.normal(step.num_tokens, b.dims.hidden_size), attention(b, step), step.cache.kv, step.batch)


@operands("attention_layer", weights="any", min_rows=5)
def decode_layer(b: Bench) -> Call:
    step = Step(b, mixed_requests(b)[:2], role=Role.WRITTEN)
    return call(b.normal(step.num_tokens, b.dims.hidden_size), attention(b, step), step.cache.kv, step.batch)


@operands("ffn_layer", features={"bias"}, weights="any")
def gated(b: Bench) -> Call:
    return call(b.normal(b.rows, b.dims.hidden_size), ffn(b))


@operands("ffn_layer", features={"bias"}, weights="any")
def gated_of_two_matrices(b: Bench) -> Call:
    return call(b.normal(b.rows, b.dims.hidden_size), ffn(b, is_split=True))


@operands("ffn_layer", features={"bias"}, weights="any")
def ungated(b: Bench) -> Call:
    return call(b.normal(b.rows, b.dims.hidden_size), ffn(b, is_gated=False))


@operands("moe_layer", features={"bias"}, weights="any")
def mixture(b: Bench) -> Call:
    return call(*moe(b, renormalize=False))


def _layer(b: Bench, step: Step | None) -> LayerWeights:
    inner = moe(b, renormalize=True, has_ties=True)[1] if "moe" in b.features else ffn(b)
    sizes = b.dims.hidden_size
    return LayerWeights(attention(b, step), norm(b, sizes), inner, norm(b, sizes))


@operands("decoder_layer", features=(*LAYER_FEATURES, "moe"), weights="any", min_rows=5)
def first_layer(b: Bench) -> Call:
    step = Step(b, mixed_requests(b), role=Role.WRITTEN)
    x = b.normal(step.num_tokens, b.dims.hidden_size, role=Role.SPENT)
    return call(x, None, _layer(b, step), step.cache.kv, step.batch)


@operands("decoder_layer", features=LAYER_FEATURES, weights="any", min_rows=5)
def later_layer(b: Bench) -> Call:
    step = Step(b, mixed_requests(b), role=Role.WRITTEN)
    x, residual = (b.normal(step.num_tokens, b.dims.hidden_size, role=Role.SPENT) for _ in range(2))
    return call(x, residual, _layer(b, step), step.cache.kv, step.batch)


@operands("encoder_layer", features=("bias", "layer_norm", "moe"), weights="any", min_rows=5)
def three_requests(b: Bench) -> Call:
    x = b.normal(9, b.dims.hidden_size, role=Role.SPENT)
    return call(x, _layer(b, None), (4, 1, 4))


def _forward(ops: Any, weights: ModelWeights, kv: tuple[Buffer, ...], batch: ForwardBatch) -> Buffer:
    x, residual = ops.gather_rows(weights.embedding, batch.token_ids, dtype=weights.dtype), None
    for layer, layer_kv in zip(weights.layers, kv, strict=True):
        x, residual = ops.decoder_layer(x, residual, layer, layer_kv, batch.attention)
    result: Buffer = ops.add_norm(x, residual, weights.norm)[0]
    return result


def _encode(ops: Any, weights: EncoderWeights, kv: tuple[Buffer, ...], batch: EncoderBatch) -> Buffer:
    x = ops.gather_rows(weights.embedding, batch.token_ids, dtype=weights.dtype)
    x, _ = ops.add_norm(x, ops.gather_rows(weights.positions, batch.positions), weights.norm)
    for layer in weights.layers:
        x = ops.encoder_layer(x, layer, batch.lengths)
    result: Buffer = x
    return result


def _one_encoder_layer(b: Bench) -> Call:
    hidden, lengths = b.dims.hidden_size, (4, 1, 4)
    dtype = dtypes.float32 if b.is_oracle else b.dtype
    tables = b.matrix(b.dims.vocab_size, hidden), b.normal(max(lengths), hidden)
    weights = EncoderWeights(*tables, norm(b, hidden), (_layer(b, None),), dtype, _encode)
    ids = b.ids(b.rng.integers(0, b.dims.vocab_size, sum(lengths)))
    positions = b.ids(np.concatenate([np.arange(length) for length in lengths]))
    return call(weights, (), EncoderBatch(ids, positions, lengths))


@operands("model_forward", features=(*LAYER_FEATURES, "layer_norm", "moe", "encoder"), weights="any", min_rows=5)
def one_layer(b: Bench) -> Call:
    if "encoder" in b.features:
        return _one_encoder_layer(b)
    step = Step(b, mixed_requests(b), role=Role.WRITTEN)
    table, layer = b.matrix(b.dims.vocab_size, b.dims.hidden_size), _layer(b, step)
    dtype = dtypes.float32 if b.is_oracle else b.dtype
    weights = ModelWeights(table, (layer,), norm(b, b.dims.hidden_size), Linear(table), dtype, _forward)
    ids = b.ids(b.rng.integers(0, b.dims.vocab_size, step.num_tokens))
    return call(weights, (step.cache.kv,), ForwardBatch(ids, step.batch))


# -- sampling ------------------------------------------------------------------------------------------------------


@operands("sample")
def greedy_and_drawn(b: Bench) -> Call:
    n = b.rows
    return call(
        b.floats(b.rng.standard_normal((n, b.dims.vocab_size))),
        temperature=np.where(np.arange(n) % 2, 0.8, 0.0).astype(np.float32),
        top_k=np.arange(n, dtype=np.int64) * 4,
        top_p=np.full(n, 0.9, np.float32),
        min_p=np.full(n, 0.01, np.float32),
        uniforms=b.rng.random(n),
    )


@operands("mask_logits")
def some_allowed(b: Bench) -> Call:
    shape = b.rows, b.dims.vocab_size
    logits = b.place(b.rng.standard_normal(shape), dtypes.float32, role=Role.SPENT)
    return call(logits, b.rng.random(shape) < 0.5, result=dtypes.float32)


COMPOSITE_OPERANDS = declared(globals())
