"""A feature that no plugin has heard of: a later core gives an op an option, and requests ask for it.

The invented option scales the ffn of single tokens. A request that halves it must get the tokens of a checkpoint
with halved down projections: halving is exact in floats, so the oracle is another file, not another formula.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import make_model, save
from oracle import assert_same_tokens

from rtp_core import LLM, RequestOutput, SamplingParams
from rtp_core.device.attention_batch import AttentionBatch
from rtp_core.device.compositions import Compositions
from rtp_core.device.layers import Layers
from rtp_core.device.op import composite
from rtp_core.device.plan import Plan
from rtp_core.device.weights import MoeWeights
from rtp_core.errors import ConfigError, RequestError
from rtp_core.plugin import OPS, Buffer, dtypes
from rtp_core.request import Request
from rtp_core.runner import model_runner

GAIN = "ffn_gain"
BUDGET = 64 << 20  # bytes
GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, logprobs=2)
DEVICES = ["ref", "cpu", "handle"]


# -- what a framework developer adds -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BatchWithGains(AttentionBatch):
    gains: Buffer | None = None  # [T, 1]


def gated_activation(
    self: Any, x: Buffer, *, kind: str, gains: Buffer | None = None, out: Buffer | None = None
) -> Buffer:
    half = x.shape[1] // 2
    gate = self.activation(x[:, :half], kind=kind, out=out)
    y = self.mul(gate, x[:, half:], out=gate)
    return y if gains is None else self.mul(y, gains, out=y)


def ffn_layer(self: Any, x: Buffer, weights: Any, *, gains: Buffer | None = None, out: Buffer | None = None) -> Buffer:
    both = self.concat(tuple(self.linear(x, part) for part in weights.up), axis=1)
    options = {} if gains is None else {"gains": gains}
    return self.linear(self.gated_activation(both, kind=weights.activation, **options), weights.down, out=out)


def decoder_layer(self: Any, x: Buffer, residual: Any, weights: Any, kv: Buffer, batch: Any) -> Any:
    if residual is None:
        h, residual = self._norm(x, weights.attention_norm), x
    else:
        h, residual = self.add_norm(x, residual, weights.attention_norm)
    h, residual = self.add_norm(self.attention_layer(h, weights.attention, kv, batch), residual, weights.ffn_norm)
    assert not isinstance(weights.ffn, MoeWeights)
    gains = getattr(batch, "gains", None)
    return self.ffn_layer(h, weights.ffn, **({} if gains is None else {"gains": gains})), residual


def step_inputs_with_gains(device: Any, batch: Any, block_size: int, logit_rows: Any) -> Any:
    inputs, rows = original_step_inputs(device, batch, block_size, logit_rows)
    if not any(GAIN in s.request.features for s in batch.requests):
        return inputs, rows
    gains = np.repeat(
        [0.5 if GAIN in s.request.features else 1.0 for s in batch.requests], [s.num_tokens for s in batch.requests]
    )
    known = {f.name: getattr(inputs.attention, f.name) for f in fields(AttentionBatch)}
    column = device.upload(gains[:, None].astype(np.float32), "gains")
    return replace(inputs, attention=BatchWithGains(**known, gains=device.cast(column, dtypes.float32))), rows


original_step_inputs = model_runner.step_inputs


@pytest.fixture
def later_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three defaults and the inputs of a step know the option; the devices have been installed long before."""
    for home, level, function, options, features in (
        (Compositions, 1, gated_activation, {"gains": GAIN}, frozenset()),
        (Layers, 3, ffn_layer, {"gains": GAIN}, OPS["ffn_layer"].features),
        (Layers, 4, decoder_layer, {}, OPS["decoder_layer"].features),
    ):
        default = composite(level, options=options, features=features, since=(1, 1))(function)
        monkeypatch.setattr(home, function.__name__, default)
        monkeypatch.setitem(OPS, function.__name__, default.__rtp_op__)  # type: ignore[attr-defined]
    monkeypatch.setattr(model_runner, "step_inputs", step_inputs_with_gains)


# -- the tests -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint, and the same with halved down projections."""
    plain, halved = tmp_path_factory.mktemp("plain"), tmp_path_factory.mktemp("halved")
    model = make_model("llama_tied")
    save(model, plain)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.down_proj.weight.mul_(0.5)
    save(model, halved)
    return plain, halved


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    rng = np.random.default_rng(3)
    return [rng.integers(0, 256, length).tolist() for length in (5, 33, 17, 1, 40, 8)]


@pytest.fixture(scope="module")
def expected(folders: tuple[Path, Path], prompts: list[list[int]]) -> tuple[list[RequestOutput], list[RequestOutput]]:
    """Outputs of the plain and of the halved checkpoint, by a core without the feature."""
    outputs = []
    for folder in folders:
        with LLM(str(folder), device="ref", dtype="float32", memory_budget=BUDGET) as llm:
            outputs.append(llm.generate(prompts, GREEDY))
    assert [o.token_ids for o in outputs[0]] != [o.token_ids for o in outputs[1]]
    return outputs[0], outputs[1]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, frozenset[str]]]]:
    """The tables that the steps have taken."""
    seen: list[tuple[str, frozenset[str]]] = []
    ops: Callable[..., Any] = Plan.ops

    def spy(self: Plan, phase: Any, features: frozenset[str] = frozenset()) -> Any:
        seen.append((phase, features))
        return ops(self, phase, features)

    monkeypatch.setattr(Plan, "ops", spy)
    yield seen


def ask_for_gain(llm: LLM, which: list[list[int]]) -> None:
    """Requests with these prompts have the feature from now on."""
    make = llm._requests

    def requests(prompt: Any, sampling: SamplingParams) -> list[Request]:
        made = make(prompt, sampling)
        for request in made if prompt in which else ():
            request.features = frozenset({GAIN})
        return made

    llm._requests = requests  # type: ignore[method-assign]


def assert_same(got: RequestOutput, expected: RequestOutput) -> None:
    assert expected.logprobs is not None
    best = [sorted(step.values(), reverse=True) for step in expected.logprobs]
    assert_same_tokens(got.token_ids, expected.token_ids, [step[0] - step[1] for step in best])


@pytest.mark.usefixtures("later_core")
@pytest.mark.parametrize("device", DEVICES)
def test_requests_with_the_feature_get_right_tokens_alone_and_in_company(
    device: str, folders: tuple[Path, Path], prompts: list[list[int]], expected: Any, asked: list[Any]
) -> None:
    plain, halved = expected
    with LLM(str(folders[0]), device=device, dtype="float32", memory_budget=BUDGET, features=(GAIN,)) as llm:
        assert {features for _, features in asked} == {frozenset(), frozenset({GAIN})}, "warm-up takes both"
        asked.clear()
        for output, other in zip(llm.generate(prompts, GREEDY), plain, strict=True):
            assert_same(output, other)
        assert {features for _, features in asked} == {frozenset()}
        ask_for_gain(llm, prompts[::2])
        asked.clear()
        for i, output in enumerate(llm.generate(prompts, GREEDY)):
            assert_same(output, (plain if i % 2 else halved)[i])
        assert {features for _, features in asked} == {frozenset({GAIN})}
        asked.clear()
        assert_same(llm.generate([prompts[1]], GREEDY)[0], plain[1])  # its batch has nobody with the feature
        assert {features for _, features in asked} == {frozenset()}


@pytest.mark.usefixtures("later_core")
@pytest.mark.parametrize("device", DEVICES)
def test_overrides_that_do_not_handle_it_step_aside_and_the_others_stay(
    device: str, folders: tuple[Path, Path]
) -> None:
    with LLM(str(folders[0]), device=device, dtype="float32", memory_budget=BUDGET, features=(GAIN,)) as llm:
        before = {row.op: row.impl for row in llm.plan.rows}
        after = {row.op: row for row in llm.plan.sheets[frozenset({GAIN})]}
        old = llm.plan.hash
    touched = {"gated_activation", "ffn_layer", "moe_experts", "moe_layer", "decoder_layer", "encoder_layer"}
    for op, row in after.items():
        assert row.impl == (f"default.{op}" if op in touched else before[op])
    assert (before["gated_activation"] == f"{device}.gated_activation") == (device != "ref")
    if device != "ref":
        (rejection,) = after["gated_activation"].rejected
        assert (rejection.impl, rejection.reason) == (f"{device}.gated_activation", f"does not handle {GAIN}")
    if device == "cpu":
        assert after["add_norm"].impl == "cpu.add_norm"
    with LLM(str(folders[0]), device=device, dtype="float32", memory_budget=BUDGET) as llm:
        assert llm.plan.hash == old


def test_features_that_no_op_or_no_request_may_have_are_errors(folders: tuple[Path, Path]) -> None:
    with pytest.raises(ConfigError, match=f"unknown feature {GAIN}.*known are bias, encoder, layer_norm"):
        LLM(str(folders[0]), device="ref", dtype="float32", memory_budget=BUDGET, features=(GAIN,))
    with LLM(str(folders[0]), device="ref", dtype="float32", memory_budget=BUDGET) as llm:
        ask_for_gain(llm, [[1, 2, 3]])
        with pytest.raises(RequestError, match=f"needs {GAIN}.*serves no features of requests"):
            llm.generate([[1, 2, 3]], GREEDY)
        assert not llm._loaded.engine.has_unfinished
        assert len(llm.generate([[4, 5]], GREEDY)[0].token_ids) == 12
