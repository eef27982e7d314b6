"""Small random BERTs that transformers wrote, against transformers itself; and what an encoder's engine promises."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import (
    ENCODER_LENGTH,
    ENCODERS,
    VOCAB,
    encoder_tokenizer,
    make_encoder,
    make_model,
    save,
    save_encoder,
)
from hypothesis import given, settings, strategies as st

from rtp_core import LLM, EmbeddingOutput
from rtp_core.checkpoint.opening import open_checkpoint
from rtp_core.engine.engine_config import EngineConfig
from rtp_core.engine.explaining import explain_plan
from rtp_core.engine.forecast import forecast
from rtp_core.errors import ContractError, OutOfMemoryError, RequestError, UnsupportedModelError
from rtp_core.models.weight_reader import Precision
from rtp_cpu.manifest import MANIFEST as CPU

BUDGET = 64 << 20  # bytes
PAGE = 4096
LENGTHS = (1, 2, 17, 33, ENCODER_LENGTH, 5)


def prompts_of(lengths: tuple[int, ...] | list[int]) -> list[list[int]]:
    rng = np.random.default_rng(3)
    return [rng.integers(0, VOCAB, length).tolist() for length in lengths]


def vectors(outputs: list[EmbeddingOutput]) -> np.ndarray:
    return np.array([output.embedding for output in outputs])


@torch.no_grad()
def means(model: torch.nn.Module, prompts: list[list[int]]) -> np.ndarray:
    """The mean of each prompt's last hidden states, each run by itself."""
    return np.array([model(torch.tensor([p])).last_hidden_state[0].mean(0).numpy() for p in prompts])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    save_encoder(make_encoder("bert"), folder)
    return folder


@pytest.mark.parametrize("device", ["ref", "cpu", "handle"])
@pytest.mark.parametrize("shape", ENCODERS)
def test_a_random_bert_gives_what_transformers_gives(shape: str, device: str, tmp_path: Path) -> None:
    model = save_encoder(make_encoder(shape), tmp_path)
    prompts = prompts_of(LENGTHS)
    with LLM(str(tmp_path), device=device, dtype="float32", memory_budget=BUDGET) as llm:
        got = vectors(llm.embed(prompts))
    np.testing.assert_allclose(got, means(model, prompts), rtol=0, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=["f32", "f16", "bf16"])
def test_every_stored_dtype_loads_exactly_in_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    model = save_encoder(make_encoder("bert_masked_lm"), tmp_path, dtype)
    with LLM(str(tmp_path), device="cpu", dtype="float32", memory_budget=BUDGET) as llm:
        got = vectors(llm.embed(prompts_of(LENGTHS)))
    np.testing.assert_allclose(got, means(model, prompts_of(LENGTHS)), rtol=0, atol=2e-5)


@pytest.mark.parametrize("options", [{"dtype": "auto"}, {"dtype": "bfloat16"}, {"quantization": "q8_0"}], ids=str)
@pytest.mark.parametrize("device", ["ref", "cpu", "handle"])
def test_other_precisions_stay_near_transformers(options: dict[str, str], device: str, tmp_path: Path) -> None:
    model = save_encoder(make_encoder("bert"), tmp_path, torch.bfloat16)
    with LLM(str(tmp_path), device=device, memory_budget=BUDGET, **options) as llm:
        got, expected = vectors(llm.embed(prompts_of(LENGTHS))), means(model, prompts_of(LENGTHS))
    cosines = (got * expected).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines.min() > 0.99


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, ENCODER_LENGTH), min_size=1, max_size=20),
    batched_tokens=st.integers(1, 200),
    requests=st.integers(1, 8),
)
@pytest.mark.parametrize("device", ["ref", "cpu"])
def test_a_batch_gives_what_each_text_gives_alone(
    device: str, lengths: list[int], batched_tokens: int, requests: int, checkpoint: Path
) -> None:
    limits = {"max_num_batched_tokens": batched_tokens, "max_num_seqs": requests}
    options = {"device": device, "dtype": "float32", "memory_budget": BUDGET}
    prompts = prompts_of(lengths)
    with LLM(str(checkpoint), **options, **limits) as llm:
        together = vectors(llm.embed(prompts))
        alone = np.concatenate([vectors(llm.embed([prompt])) for prompt in prompts])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)


def test_steps_hold_whole_texts_within_the_limits(checkpoint: Path) -> None:
    lengths = [10, 20, 30, 64, 1, 1, 1, 1, 1, 40, 30]
    with LLM(str(checkpoint), device="ref", max_num_batched_tokens=70, max_num_seqs=4, memory_budget=BUDGET) as llm:
        runner, steps = llm._loaded.engine._runner, []
        execute = runner.execute
        runner.execute = lambda requests: steps.append([*map(len, requests)]) or execute(requests)
        assert len(llm.embed(prompts_of(lengths))) == len(lengths)
    assert steps == [[10, 20, 30], [64, 1, 1, 1], [1, 1, 40], [30]]


# -- texts ---------------------------------------------------------------------------------------------------------


def test_texts_are_cut_to_the_models_length_and_keep_their_end(checkpoint: Path) -> None:
    long = "the " * 200
    with LLM(str(checkpoint), device="ref", dtype="float32", memory_budget=BUDGET) as llm:
        output, short, empty = llm.embed([long, "the", ""])
    tokenizer = encoder_tokenizer()
    ends = [tokenizer.cls_token_id, tokenizer.sep_token_id]
    assert len(output.prompt_token_ids) == ENCODER_LENGTH
    assert [output.prompt_token_ids[0], output.prompt_token_ids[-1]] == ends
    assert (output.prompt, short.prompt) == (long, "the")
    assert len(short.prompt_token_ids) == 3
    assert empty.prompt_token_ids == ends
    with LLM(str(checkpoint), device="ref", max_model_len=9, memory_budget=BUDGET) as llm:
        assert len(llm.embed(long)[0].prompt_token_ids) == 9


def test_token_ids_and_texts_may_be_mixed_and_a_single_one_is_a_list_of_one(checkpoint: Path) -> None:
    with LLM(str(checkpoint), device="ref", dtype="float32", memory_budget=BUDGET) as llm:
        ids = llm.embed("the thing")[0].prompt_token_ids
        first, second = llm.embed(["the thing", ids])
        np.testing.assert_allclose(first.embedding, second.embedding, rtol=0, atol=1e-5)
        assert (second.prompt, second.prompt_token_ids) == (None, ids)
        assert llm.embed(np.array(ids))[0].embedding == llm.embed("the thing")[0].embedding
        assert llm.embed([]) == []
        assert all(type(x) is float for x in first.embedding)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ([1] * (ENCODER_LENGTH + 1), "expected 1 to 64"),
        ([], "prompt 1 has 0 tokens"),
        ([VOCAB], "bad token id 384"),
        ([-1], "bad token id"),
        ([1.5], "bad token id"),
        ([True], "bad token id"),
    ],
)
def test_a_bad_prompt_is_refused_before_any_is_served(bad: list[int], said: str, checkpoint: Path) -> None:
    with LLM(str(checkpoint), device="ref", memory_budget=BUDGET) as llm:
        llm._loaded.engine._runner.execute = None
        with pytest.raises(RequestError, match=said):
            llm.embed([[1, 2], bad])


def test_an_encoder_generates_nothing_and_a_decoder_embeds_nothing(checkpoint: Path, tmp_path: Path) -> None:
    with LLM(str(checkpoint), device="ref", memory_budget=BUDGET) as llm:
        for call in (
            lambda: llm.generate("the"),
            lambda: next(llm.stream("the")),
            lambda: llm.chat([{"role": "user", "content": "the"}]),
        ):
            with pytest.raises(UnsupportedModelError, match=r"bert model generates no text.*encoder.*rtp embed"):
                call()
    save(make_model("llama_tied"), tmp_path)
    with (
        LLM(str(tmp_path), device="ref", memory_budget=BUDGET) as llm,
        pytest.raises(UnsupportedModelError, match=r"llama model gives no embeddings.*decoder.*rtp embed TEXT --model"),
    ):
        llm.embed("the")


# -- plan and memory -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["ref", "cpu", "handle"])
@pytest.mark.parametrize("options", [{}, {"quantization": "q8_0"}], ids=["plain", "q8_0"])
def test_the_plan_is_told_without_weights(device: str, options: dict[str, str], checkpoint: Path) -> None:
    told = explain_plan(checkpoint, EngineConfig(device=device, **options))
    with LLM(str(checkpoint), device=device, memory_budget=BUDGET, **options) as llm:
        assert told.hash == llm.plan.hash
        assert told.rows == llm.plan.rows
    features = {row.op: set(row.features) for row in told.rows}
    assert features["model_forward"] == {"bias", "encoder", "layer_norm"}
    assert features["encoder_layer"] == {"bias", "layer_norm"}
    assert features["decoder_layer"] == features["lm_head"] == set()


def test_linear_layers_of_an_encoder_run_in_the_scheme_that_its_device_prefers(
    checkpoint: Path, tmp_path: Path
) -> None:
    """Under dtype auto, and as told; a decoder's weights stay as they are."""
    in_int8, in_floats = (explain_plan(checkpoint, EngineConfig(device="cpu", dtype=d)) for d in ("auto", "float32"))
    for told, scheme, impl in ((in_int8, "q8_0", "cpu.encoder_layer_int8"), (in_floats, "none", "cpu.encoder_layer")):
        row = next(row for row in told.rows if row.op == "encoder_layer")
        assert (row.scheme, row.impl) == (scheme, impl)
    for device, dtype in (("ref", "auto"), ("cpu", "bfloat16")):
        rows = explain_plan(checkpoint, EngineConfig(device=device, dtype=dtype)).rows
        assert {row.scheme for row in rows if row.op == "encoder_layer"} == {"none"}
    table = next(row for row in in_int8.rows if row.op == "gather_rows")
    assert table.scheme == "none"
    save(make_model("llama_tied"), tmp_path)
    decoder = explain_plan(tmp_path, EngineConfig(device="cpu"))
    assert {row.scheme for row in decoder.rows} <= {"none", "any"}


def test_a_preferred_scheme_that_core_does_not_know_is_an_error() -> None:
    manifest = replace(CPU, kind="acme", schemes=("q7_9",), encoder_scheme="q7_9")
    with pytest.raises(ContractError, match=r"bad encoder_scheme 'q7_9'.*manifest of acme.*can quantize to .*q8_0"):
        Precision.by_manifest(manifest, "float32", "auto", None, "acme:0", is_encoder=True)


@pytest.mark.parametrize("device", ["ref", "cpu"])
def test_the_forecast_holds_for_every_step(device: str, checkpoint: Path) -> None:
    options = {"device": device, "dtype": "float32", "max_num_batched_tokens": 300, "max_num_seqs": 7}
    told = forecast(open_checkpoint(checkpoint), {**options, "memory_budget": BUDGET})
    assert (told.kv_tokens, told.need.kv_block_bytes, told.need.kv_token_bytes, told.problem) == (0, 0, 0, "")
    budget = -(-told.need.fixed_bytes // PAGE) * PAGE
    with LLM(str(checkpoint), memory_budget=budget, **options) as llm:
        for lengths in ([ENCODER_LENGTH] * 9, [1] * 30, [22] * 7, [3, 64, 64, 12], [64]):
            llm.embed(prompts_of(lengths))
        assert llm.memory.stats.public_bytes == 0


def test_too_little_memory_is_told_without_a_word_about_kv(checkpoint: Path) -> None:
    need = forecast(open_checkpoint(checkpoint), {"device": "ref", "memory_budget": BUDGET}).need
    with pytest.raises(OutOfMemoryError, match=r"weights .*work space") as failure:
        LLM(str(checkpoint), device="ref", memory_budget=need.fixed_bytes - (64 << 10))
    assert "KV" not in str(failure.value)
    assert "--memory-budget" in failure.value.hint or "--max-num" in failure.value.hint


def test_an_overridden_forward_that_knows_no_encoder_steps_aside(checkpoint: Path) -> None:
    from rtp_core.device.choice import Offer, Wishes
    from rtp_core.device.op import DeclaredOverride
    from rtp_core.device.plan import explained_rows
    from rtp_core.device.reference import MANIFEST
    from rtp_core.models.model import demand_of_header

    declared = DeclaredOverride("model_forward", "acme.decoders", handles=frozenset({"bias", "layer_norm"}))
    manifest = replace(MANIFEST, overrides=(declared,))
    opened = open_checkpoint(checkpoint)
    precision = Precision.by_manifest(manifest, "float32", "float32", None, "acme")
    demand = demand_of_header(opened.config, opened.header, precision, manifest, "file")
    row = next(r for r in explained_rows(Offer.of_manifest(manifest), demand, Wishes()) if r.op == "model_forward")
    assert row.source == "default"
    assert "encoder" in row.rejected[0].reason
