"""The default of every composite against torch in float64; and on the device that only records calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from rtp_core.device.plan import Demand, resolve
from rtp_core.plugin import (
    OPS,
    AttentionBatch,
    AttentionWeights,
    Buffer,
    Device,
    DType,
    FfnWeights,
    ForwardBatch,
    LayerWeights,
    Linear,
    ModelWeights,
    MoeWeights,
    Norm,
    RopeTables,
    dtypes,
)
from rtp_test_devices.recorder import RecorderDevice

FLOATS = pytest.mark.parametrize("dtype", [dtypes.float32, dtypes.bfloat16, dtypes.float16], ids=lambda d: d.name)
TOLERANCE = {"float32": 2e-5, "bfloat16": 4e-2, "float16": 5e-3}  # of the largest value: intermediates are rounded too

HEADS, KV_HEADS, DIM, HIDDEN, FFN = 6, 2, 8, 20, 28  # heads * dim is not the hidden size, on purpose
BLOCK_SIZE, NUM_BLOCKS, POSITIONS = 4, 16, 32
EPS = 1e-5
REQUESTS = ((7, 1), (1, 1), (9, 5), (4, 4))  # (context, queries): two in decode, then two in prefill


class Bench:
    """Random operands twice: as buffers of the device, and as torch tensors of exactly the same numbers."""

    def __init__(self, device: Device, dtype: DType) -> None:
        self.device, self.dtype = device, dtype
        self.rng = np.random.default_rng(11)

    def place(self, numbers: NDArray[Any], dtype: DType | None = None) -> tuple[Buffer, Tensor]:
        stored = numbers.astype((dtype or self.dtype).numpy)
        return self.device.upload(stored, "operand"), torch.from_numpy(stored.astype(np.float64))

    def normal(self, *shape: int, scale: float = 1.0) -> tuple[Buffer, Tensor]:
        return self.place(self.rng.standard_normal(shape) * scale)

    def linear(self, rows: int, columns: int, has_bias: bool = False) -> tuple[Linear, Callable[[Tensor], Tensor]]:
        weight, w = self.normal(rows, columns, scale=columns**-0.5)
        bias, b = self.normal(rows) if has_bias else (None, None)
        return Linear(weight, bias), lambda x: F.linear(x, w, b)

    def norm(self, size: int, is_layer_norm: bool = False) -> tuple[Norm, Callable[[Tensor], Tensor]]:
        weight, w = self.normal(size)
        if not is_layer_norm:
            return Norm(weight, EPS), lambda x: F.rms_norm(x, (size,), w, EPS)
        bias, b = self.normal(size)
        return Norm(weight, EPS, bias), lambda x: F.layer_norm(x, (size,), w, b, EPS)

    def ids(self, numbers: Any) -> Buffer:
        return self.device.upload(np.ascontiguousarray(numbers, np.int32), "ids")

    def ffn(self, is_gated: bool, is_split: bool = False) -> tuple[FfnWeights, Callable[[Tensor], Tensor]]:
        down, f_down = self.linear(HIDDEN, FFN, has_bias=not is_gated)
        if not is_gated:
            up, f_up = self.linear(FFN, HIDDEN, has_bias=True)
            return FfnWeights((up,), down, "gelu", is_gated=False), lambda x: f_down(F.gelu(f_up(x)))
        parts = [self.linear(FFN, HIDDEN) for _ in range(2)] if is_split else [self.linear(2 * FFN, HIDDEN)]

        def forward(x: Tensor) -> Tensor:
            gate, up = torch.cat([f(x) for _, f in parts], dim=-1).chunk(2, dim=-1)
            return f_down(F.silu(gate) * up)

        return FfnWeights(tuple(part for part, _ in parts), down, "silu"), forward

    def moe(self, renormalize: bool) -> tuple[Buffer, MoeWeights, Tensor, Any]:
        """Rows of a unit matrix as tokens, so that the gate's logits are exact and no dtype reorders the experts."""
        tokens, experts = 7, 5
        x, t = self.place(np.eye(HIDDEN)[:tokens])
        logits = np.stack([self.rng.permutation(experts) for _ in range(HIDDEN)]).T / 2
        gate, g = self.place(logits)
        pairs = [self.ffn(is_gated=True) for _ in range(experts)]
        weights = MoeWeights(Linear(gate), tuple(w for w, _ in pairs), 2, renormalize)
        probabilities = (t @ g.T).softmax(-1)
        gates, ids = probabilities.topk(2, dim=-1)
        if renormalize:
            gates = gates / gates.sum(-1, keepdim=True)
        return x, weights, t, (gates, ids, [f for _, f in pairs])


class Step:
    """One step of REQUESTS over a blocked cache with a past, and the same cache as one dense tensor a request."""

    def __init__(self, bench: Bench, requests: tuple[tuple[int, int], ...] = REQUESTS, is_first_layer: bool = True):
        rng, self.bench, self.requests = bench.rng, bench, requests
        blocks = iter(rng.permutation(NUM_BLOCKS).tolist())
        tables = np.zeros((len(requests), 4), np.int32)
        cache = rng.standard_normal((NUM_BLOCKS, 2, 2, KV_HEADS, BLOCK_SIZE, DIM))
        cached, numbers = bench.place(cache)
        layer = 0 if is_first_layer else 1
        self.kv = cached[:, layer]  # strided: another layer lies between its blocks
        slots, positions, self.past = [], [], []
        for r, (context, queries) in enumerate(requests):
            used = -(-context // BLOCK_SIZE)
            tables[r, :used] = [next(blocks) for _ in range(used)]
            at = np.arange(context)
            slot = tables[r, at // BLOCK_SIZE] * BLOCK_SIZE + at % BLOCK_SIZE
            dense = numbers[:, layer].permute(0, 3, 1, 2, 4).reshape(-1, 2, KV_HEADS, DIM)[slot]  # [S, 2, K, D]
            self.past.append(dense)
            slots.append(slot[context - queries :])
            positions.append(at[context - queries :])
        self.positions = np.concatenate(positions)
        starts = np.cumsum([0, *(q for _, q in requests)]).astype(np.int32)
        lens = np.array([c for c, _ in requests], np.int32)
        num_decode = sum(q == 1 for _, q in requests)
        self.batch = AttentionBatch(
            num_decode,
            starts,
            lens,
            bench.ids(starts),
            bench.ids(lens),
            bench.ids(tables),
            bench.ids(self.positions),
            bench.ids(np.concatenate(slots)),
        )
        angles = np.outer(np.arange(POSITIONS), 50.0 ** (-np.arange(0, DIM, 2) / DIM))
        cos, self.cos = bench.place(np.cos(angles), dtypes.float32)
        sin, self.sin = bench.place(np.sin(angles), dtypes.float32)
        self.rope = RopeTables(cos, sin)

    @property
    def num_tokens(self) -> int:
        return self.batch.num_tokens

    def rows(self) -> Iterator[tuple[int, slice]]:
        starts = self.batch.query_starts.tolist()
        for r in range(len(self.requests)):
            yield r, slice(starts[r], starts[r + 1])

    def rotate(self, x: Tensor) -> Tensor:
        """x: [T, heads, D], as Hugging Face's llama rotates it."""
        cos, sin = (torch.cat([t, t], -1)[self.positions][:, None] for t in (self.cos, self.sin))
        first, second = x.chunk(2, dim=-1)
        return x * cos + torch.cat([-second, first], -1) * sin

    def attend(self, q: Tensor, k: Tensor | None = None, v: Tensor | None = None) -> Tensor:
        """q: [T, H, D]. With k and v [T, K, D] these replace the cache's own for the tokens of the step."""
        out = torch.empty_like(q)
        for r, rows in self.rows():
            context, queries = self.requests[r]
            keys, values = self.past[r][:, 0].clone(), self.past[r][:, 1].clone()
            if k is not None and v is not None:
                keys[context - queries :], values[context - queries :] = k[rows], v[rows]
            mask = torch.ones(queries, context, dtype=torch.bool).tril(context - queries)
            heads = (t.transpose(0, 1)[None] for t in (q[rows], keys, values))
            out[rows] = F.scaled_dot_product_attention(*heads, attn_mask=mask, enable_gqa=True)[0].transpose(0, 1)
        return out

    def attention(self, has_bias: bool = False, has_qk_norm: bool = False) -> tuple[AttentionWeights, Any]:
        sizes = (HEADS * DIM, KV_HEADS * DIM, KV_HEADS * DIM)
        o, f_o = self.bench.linear(HIDDEN, HEADS * DIM)
        if has_bias:
            parts = [self.bench.linear(size, HIDDEN, has_bias=True) for size in sizes]
        else:
            parts = [self.bench.linear(sum(sizes), HIDDEN)]
        norms = [self.bench.norm(DIM) for _ in range(2)] if has_qk_norm else []
        weights = AttentionWeights(
            tuple(part for part, _ in parts), o, HEADS, KV_HEADS, DIM, self.rope, *(norm for norm, _ in norms)
        )

        def project(x: Tensor) -> tuple[Tensor, ...]:
            qkv = torch.cat([f(x) for _, f in parts], -1).split(sizes, dim=-1)
            return tuple(t.reshape(len(x), -1, DIM) for t in qkv)

        def forward(x: Tensor) -> Tensor:
            q, k, v = project(x)
            if norms:
                q, k = norms[0][1](q), norms[1][1](k)
            return f_o(self.attend(self.rotate(q), self.rotate(k), v).reshape(len(x), -1))

        forward.project = project  # type: ignore[attr-defined]
        return weights, forward


Outcome = tuple[Any, Any]  # what the device returned, and what torch says: one each, or tuples of them
Case = Callable[[Bench], Outcome]
CASES: list[tuple[str, Case]] = []


def case(op: str) -> Callable[[Case], Case]:
    def register(function: Case) -> Case:
        CASES.append((op, function))
        return function

    return register


# -- level 1 -------------------------------------------------------------------------------------------------------


@case("add_norm")
def add_rms_norm(b: Bench) -> Outcome:
    (x, t), (residual, r), (norm, f) = b.normal(5, HIDDEN), b.normal(5, HIDDEN), b.norm(HIDDEN)
    return b.device.add_norm(x, residual, norm), (f(t + r), t + r)


@case("add_norm")
def add_layer_norm(b: Bench) -> Outcome:
    (x, t), (residual, r), (norm, f) = b.normal(5, HIDDEN), b.normal(5, HIDDEN), b.norm(HIDDEN, is_layer_norm=True)
    return b.device.add_norm(x, residual, norm), (f(t + r), t + r)


@case("gemm_activation")
def gemm_gelu(b: Bench) -> Outcome:
    (x, t), (weight, f) = b.normal(3, 17), b.linear(13, 17, has_bias=True)
    return b.device.gemm_activation(x, weight, kind="gelu_tanh"), F.gelu(f(t), approximate="tanh")


@case("gated_activation")
def swiglu(b: Bench) -> Outcome:
    x, t = b.normal(3, 26)
    gate, up = t.chunk(2, dim=-1)
    return b.device.gated_activation(x, kind="silu"), F.silu(gate) * up


@case("grouped_gemm")
def groups_of_which_one_is_empty(b: Bench) -> Outcome:
    x, t = b.normal(6, 9)
    pairs = [b.linear(4, 9) for _ in range(3)]
    expected = torch.cat([pairs[0][1](t[:2]), pairs[2][1](t[2:])])
    return b.device.grouped_gemm(x, tuple(w.weight for w, _ in pairs), (2, 0, 4)), expected


@case("concat")
def concat_rows(b: Bench) -> Outcome:
    (x, t), (y, u) = b.normal(2, 5), b.normal(3, 5)
    return b.device.concat((x, y)), torch.cat([t, u])


@case("concat")
def concat_columns_of_views(b: Bench) -> Outcome:
    (x, t), (y, u) = b.normal(4, 7), b.normal(4, 5)
    return b.device.concat((x[:, 2:], y[:, :3]), axis=1), torch.cat([t[:, 2:], u[:, :3]], dim=1)


@case("qk_norm")
def norms_of_heads(b: Bench) -> Outcome:
    (qkv, t), (q_norm, f), (k_norm, g) = b.normal(5, HEADS + KV_HEADS, DIM), b.norm(DIM), b.norm(DIM)
    results = b.device.qk_norm(qkv[:, :HEADS], qkv[:, HEADS:], q_norm, k_norm)
    return results, (f(t[:, :HEADS]), g(t[:, HEADS:]))


# -- level 2 -------------------------------------------------------------------------------------------------------


@case("linear")
def linear_with_bias(b: Bench) -> Outcome:
    (x, t), (weight, f) = b.normal(5, 19), b.linear(7, 19, has_bias=True)
    return b.device.linear(x, weight), f(t)


@case("linear")
def linear_of_no_rows(b: Bench) -> Outcome:
    (x, t), (weight, f) = b.normal(0, 19), b.linear(7, 19)
    return b.device.linear(x, weight), f(t)


@case("qkv_linear")
def qkv_of_one_matrix(b: Bench) -> Outcome:
    weights, forward = Step(b).attention()
    x, t = b.normal(5, HIDDEN)
    return b.device.qkv_linear(x, weights), forward.project(t)


@case("qkv_linear")
def qkv_of_three_matrices_with_bias(b: Bench) -> Outcome:
    weights, forward = Step(b).attention(has_bias=True)
    x, t = b.normal(5, HIDDEN)
    return b.device.qkv_linear(x, weights), forward.project(t)


@case("rope_kv_write")
def rotated_and_kept(b: Bench) -> Outcome:
    step = Step(b, is_first_layer=False)
    weights, _ = step.attention()
    (q, t), (k, u), (v, w) = (b.normal(step.num_tokens, heads, DIM) for heads in (HEADS, KV_HEADS, KV_HEADS))
    rotated = b.device.rope_kv_write(q, k, v, step.kv, weights, step.batch)
    got, expected = [rotated], [step.rotate(t)]
    for r, rows in step.rows():
        context, queries = step.requests[r]
        keys, values = b.device.kv_gather(step.kv, step.batch.block_tables[r], context)
        past = context - queries
        for result, kept, fresh in ((keys, step.past[r][:, 0], step.rotate(u)), (values, step.past[r][:, 1], w)):
            got.append(result)
            expected.append(torch.cat([kept[:past], fresh[rows]]).transpose(0, 1))
    return tuple(got), tuple(expected)


@case("context_attention")
def prefill_requests_of_a_mixed_batch(b: Bench) -> Outcome:
    step = Step(b, is_first_layer=False)
    q, t = b.normal(step.num_tokens, HEADS, DIM)
    decode = step.batch.num_decode
    return b.device.context_attention(q[decode:], step.kv, step.batch, scale=DIM**-0.5), step.attend(t)[decode:]


@case("context_attention")
def a_prefill_request_without_a_query(b: Bench) -> Outcome:
    step = Step(b, ((7, 1), (9, 5), (4, 0)))
    q, t = b.normal(step.num_tokens, HEADS, DIM)
    decode = step.batch.num_decode
    return b.device.context_attention(q[decode:], step.kv, step.batch, scale=DIM**-0.5), step.attend(t)[decode:]


@case("decoder_self_attention")
def decode_requests_of_a_mixed_batch(b: Bench) -> Outcome:
    step = Step(b)
    q, t = b.normal(step.num_tokens, HEADS, DIM)
    decode = step.batch.num_decode
    return b.device.decoder_self_attention(q[:decode], step.kv, step.batch, scale=DIM**-0.5), step.attend(t)[:decode]


@case("moe_gate")
def renormalized_gate(b: Bench) -> Outcome:
    x, weights, _, (gates, ids, _) = b.moe(renormalize=True)
    return b.device.moe_gate(x, weights), (gates, ids)


@case("moe_gate")
def plain_gate(b: Bench) -> Outcome:
    x, weights, _, (gates, ids, _) = b.moe(renormalize=False)
    return b.device.moe_gate(x, weights), (gates, ids)


def mixture(t: Tensor, gates: Tensor, ids: Tensor, experts: Any) -> Tensor:
    rows = zip(t, gates, ids, strict=True)
    return torch.stack([sum(g * experts[i](x) for g, i in zip(gs, row, strict=True)) for x, gs, row in rows])


@case("moe_experts")
def experts_of_which_some_are_idle(b: Bench) -> Outcome:
    _, weights, _, (_, _, experts) = b.moe(renormalize=True)
    (x, t), (gates, g) = b.normal(4, HIDDEN), b.place(np.array([[0.5, 0.25], [1, 0], [0.75, 0.125], [0.5, 0.5]]))
    ids = np.array([[3, 1], [1, 3], [3, 0], [0, 1]])
    return b.device.moe_experts(x, gates, b.ids(ids), weights.experts), mixture(t, g, torch.from_numpy(ids), experts)


@case("lm_head")
def logits_in_float32(b: Bench) -> Outcome:
    (x, t), (weight, f) = b.normal(3, HIDDEN), b.linear(37, HIDDEN)
    return b.device.lm_head(x, weight), f(t)


# -- levels 3 to 5 -------------------------------------------------------------------------------------------------


@case("attention_layer")
def attention_of_a_mixed_batch(b: Bench) -> Outcome:
    step = Step(b, is_first_layer=False)
    (weights, forward), (x, t) = step.attention(), b.normal(step.num_tokens, HIDDEN)
    return b.device.attention_layer(x, weights, step.kv, step.batch), forward(t)


@case("attention_layer")
def attention_with_bias_and_qk_norm(b: Bench) -> Outcome:
    step = Step(b)
    (weights, forward), (x, t) = step.attention(True, True), b.normal(step.num_tokens, HIDDEN)
    return b.device.attention_layer(x, weights, step.kv, step.batch), forward(t)


@case("attention_layer")
def attention_of_decode_alone(b: Bench) -> Outcome:
    step = Step(b, REQUESTS[:2])
    (weights, forward), (x, t) = step.attention(), b.normal(step.num_tokens, HIDDEN)
    return b.device.attention_layer(x, weights, step.kv, step.batch), forward(t)


@case("attention_layer")
def attention_of_prefill_alone(b: Bench) -> Outcome:
    step = Step(b, REQUESTS[2:])
    (weights, forward), (x, t) = step.attention(), b.normal(step.num_tokens, HIDDEN)
    return b.device.attention_layer(x, weights, step.kv, step.batch), forward(t)


@case("ffn_layer")
def gated_ffn(b: Bench) -> Outcome:
    (weights, forward), (x, t) = b.ffn(is_gated=True), b.normal(5, HIDDEN)
    return b.device.ffn_layer(x, weights), forward(t)


@case("ffn_layer")
def gated_ffn_of_two_matrices(b: Bench) -> Outcome:
    (weights, forward), (x, t) = b.ffn(is_gated=True, is_split=True), b.normal(5, HIDDEN)
    return b.device.ffn_layer(x, weights), forward(t)


@case("ffn_layer")
def plain_ffn(b: Bench) -> Outcome:
    (weights, forward), (x, t) = b.ffn(is_gated=False), b.normal(5, HIDDEN)
    return b.device.ffn_layer(x, weights), forward(t)


@case("moe_layer")
def small_mixture(b: Bench) -> Outcome:
    x, weights, t, chosen = b.moe(renormalize=False)
    return b.device.moe_layer(x, weights), mixture(t, *chosen)


def decoder(b: Bench, is_first: bool) -> Outcome:
    step = Step(b)
    (attention, f_attention), (ffn, f_ffn) = step.attention(), b.ffn(is_gated=True)
    (norm, f), (ffn_norm, g) = b.norm(HIDDEN), b.norm(HIDDEN)
    (x, t), (residual, r) = b.normal(step.num_tokens, HIDDEN), b.normal(step.num_tokens, HIDDEN)
    total = t if is_first else t + r
    weights = LayerWeights(attention, norm, ffn, ffn_norm)
    middle = total + f_attention(f(total))
    got = b.device.decoder_layer(x, None if is_first else residual, weights, step.kv, step.batch)
    return got, (f_ffn(g(middle)), middle)


@case("decoder_layer")
def first_decoder_layer(b: Bench) -> Outcome:
    return decoder(b, is_first=True)


@case("decoder_layer")
def later_decoder_layer(b: Bench) -> Outcome:
    return decoder(b, is_first=False)


@case("encoder_layer")
def encoder_of_three_requests(b: Bench) -> Outcome:
    """torch's own encoder layer is the oracle."""
    size, heads = 24, 3
    layer = torch.nn.TransformerEncoderLayer(
        size, heads, FFN, dropout=0.0, activation="gelu", layer_norm_eps=EPS, batch_first=True, dtype=torch.float64
    )
    placed = {}
    for name, parameter in layer.named_parameters():
        placed[name], numbers = b.normal(*parameter.shape, scale=0.2)
        parameter.data.copy_(numbers)

    def linear(name: str, separator: str = ".") -> Linear:
        return Linear(placed[f"{name}{separator}weight"], placed[f"{name}{separator}bias"])

    def norm(name: str) -> Norm:
        return Norm(placed[f"{name}.weight"], EPS, placed[f"{name}.bias"])

    qkv, o = linear("self_attn.in_proj", "_"), linear("self_attn.out_proj")
    ffn = FfnWeights((linear("linear1"),), linear("linear2"), "gelu", is_gated=False)
    attention = AttentionWeights((qkv,), o, heads, heads, size // heads)
    x, t = b.normal(9, size)
    got = b.device.encoder_layer(x, LayerWeights(attention, norm("norm1"), ffn, norm("norm2")), (4, 1, 4))
    return got, torch.cat([layer(part[None])[0] for part in t.split([4, 1, 4])]).detach()


@case("model_forward")
def assembly_bound_by_the_model(b: Bench) -> Outcome:
    step = Step(b)
    (table, numbers), (norm, f) = b.normal(13, HIDDEN), b.norm(HIDDEN)

    def forward(ops: Device, weights: ModelWeights, kv: tuple[Buffer, ...], batch: ForwardBatch) -> Buffer:
        assert kv == (step.kv,)
        x = ops.gather_rows(weights.embedding, batch.token_ids)
        return ops.rms_norm(x, weights.norm.weight, eps=weights.norm.eps)

    weights = ModelWeights(table, (), norm, Linear(table), b.dtype, forward)
    ids = b.rng.integers(0, 13, step.num_tokens)
    got = b.device.model_forward(weights, (step.kv,), ForwardBatch(b.ids(ids), step.batch))
    return got, f(numbers[ids])


# -- sampling ------------------------------------------------------------------------------------------------------


@case("sample")
def greedy_sample(b: Bench) -> Outcome:
    logits, t = b.place(b.rng.standard_normal((4, 33)), dtypes.float32)
    zeros, ones = np.zeros(4, np.float32), np.ones(4, np.float32)
    options = {"top_k": np.zeros(4, np.int64), "top_p": ones, "min_p": zeros, "uniforms": np.zeros(4)}
    return b.device.sample(logits, temperature=zeros, **options), t.argmax(-1)


@case("mask_logits")
def masked_logits(b: Bench) -> Outcome:
    logits, t = b.place(b.rng.standard_normal((4, 33)), dtypes.float32)
    allowed = b.rng.random((4, 33)) < 0.5
    return b.device.mask_logits(logits, allowed), t.masked_fill(~torch.from_numpy(allowed), -torch.inf)


# -- the tests -----------------------------------------------------------------------------------------------------

every_case = pytest.mark.parametrize(("op", "run"), CASES, ids=[f"{op}-{f.__name__}" for op, f in CASES])


def pairs_of(outcome: Outcome) -> list[tuple[Any, Tensor]]:
    got, expected = outcome
    if not isinstance(got, tuple):
        return [(got, expected)]
    return list(zip(got, expected, strict=True))


def test_every_composite_has_a_case_here() -> None:
    assert {op for op, _ in CASES} == {name for name, spec in OPS.items() if not spec.is_primitive}


@every_case
@FLOATS
def test_default_says_what_torch_says(device: Device, op: str, run: Case, dtype: DType) -> None:
    for got, expected in pairs_of(run(Bench(device, dtype))):
        numbers = (device.download(got) if isinstance(got, Buffer) else got).astype(np.float64)
        assert numbers.shape == tuple(expected.shape), op
        limit = float(expected[expected.isfinite()].abs().max()) if expected.numel() else 0.0
        np.testing.assert_allclose(numbers, expected.numpy(), rtol=0, atol=TOLERANCE[dtype.name] * limit, err_msg=op)


@every_case
def test_default_runs_where_nothing_is_computed_and_the_host_sees_no_memory(
    recorder_device: RecorderDevice, op: str, run: Case
) -> None:
    for got, expected in pairs_of(run(Bench(recorder_device, dtypes.bfloat16))):
        assert got.shape == tuple(expected.shape), op
        if isinstance(got, Buffer):
            assert got.space is recorder_device.space
            wanted = {"lm_head": "float32", "mask_logits": "float32"}.get(op, "bfloat16")
            assert got.dtype.name == ("int32" if expected.dtype is torch.int64 else wanted), op


def test_gated_ffn_is_two_products_an_activation_and_a_product_of_elements(recorder_device: RecorderDevice) -> None:
    bench = Bench(recorder_device, dtypes.float16)
    (weights, _), (x, _) = bench.ffn(is_gated=True), bench.normal(5, HIDDEN)
    recorder_device.calls.clear()
    recorder_device.ffn_layer(x, weights)
    assert [call.op for call in recorder_device.calls] == ["gemm", "activation", "mul", "gemm"]
    assert recorder_device.calls[0].operands == {
        "a": ((5, HIDDEN), "float16"),
        "b": ((2 * FFN, HIDDEN), "float16"),
        "out": ((5, 2 * FFN), "float16"),
    }


def test_a_decode_step_of_a_layer_copies_nothing_between_host_and_device(recorder_device: RecorderDevice) -> None:
    bench = Bench(recorder_device, dtypes.float32)
    step = Step(bench, REQUESTS[:2])
    (attention, _), (ffn, _), (norm, _) = step.attention(), bench.ffn(is_gated=True), bench.norm(HIDDEN)
    x, _ = bench.normal(step.num_tokens, HIDDEN)
    recorder_device.calls.clear()
    recorder_device.decoder_layer(x, None, LayerWeights(attention, norm, ffn, norm), step.kv, step.batch)
    assert "copy" not in {call.op for call in recorder_device.calls}


@FLOATS
def test_an_override_agrees_with_the_default_it_replaces(handle_device: Device, dtype: DType) -> None:
    x, _ = Bench(handle_device, dtype).normal(5, 26)
    ops = resolve(handle_device, Demand("float32")).ops("decode")
    assert ops.gated_activation.__func__ is not Device.gated_activation
    chosen, default = (handle_device.download(o.gated_activation(x, kind="silu")) for o in (ops, handle_device))
    tolerance = TOLERANCE[dtype.name]
    np.testing.assert_allclose(chosen.astype(np.float32), default.astype(np.float32), rtol=tolerance, atol=tolerance)
