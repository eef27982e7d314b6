"""`rtp embed` and `rtp bench embed`, and what other commands say of an encoder."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rtp_core import LLM
from rtp_core.engine.embed_latency import EmbedLatency, measure_embed
from rtp_core.errors import ConfigError

from .conftest import RunRtp
from .scripted_model import document, on_ref
from .tiny_encoder import LENGTH, WIDTH, write_encoder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder"))


def test_embed_gives_what_the_python_api_gives(rtp: RunRtp, encoder: Path) -> None:
    found = document(rtp("embed", "a cab", "", "bad", *on_ref(encoder), "--json"))
    with LLM(str(encoder), device="ref", dtype="float32", memory_budget=1 << 26) as llm:
        expected = [output.embedding for output in llm.embed(["a cab", "", "bad"])]
    np.testing.assert_allclose(found["embeddings"], expected, rtol=0, atol=1e-6)
    assert (found["schema"], found["model"], found["device"]) == (1, str(encoder), "ref:0")
    assert found["num_tokens"] == [6, 2, 5]
    assert set(found["timings"]) == {"load_s", "embed_s"}


def test_embed_without_json_shows_numbers_and_how_alike_texts_are(rtp: RunRtp, encoder: Path) -> None:
    result = rtp("embed", "a", "a", "\x1b[31mz" * 20, *on_ref(encoder))
    header, *rows = result.stdout.splitlines()
    assert header.split() == ["#", "TEXT", "TOKENS", "EMBEDDING", f"({WIDTH})", "~1", "~2", "~3"]
    assert [row.split()[0] for row in rows] == ["1", "2", "3"]
    assert rows[0].split()[-3:-1] == ["1.00", "1.00"]
    assert "\x1b" not in result.stdout and "..." in rows[2]
    assert "3 texts" in result.stderr
    assert "~1" not in rtp("embed", "a", *on_ref(encoder)).stdout


@pytest.mark.parametrize("arguments", [("-",), ()])
def test_standard_input_is_one_text_a_line(rtp: RunRtp, encoder: Path, arguments: tuple[str, ...]) -> None:
    result = rtp("embed", *arguments, *on_ref(encoder), "--json", input="a\r\n\nabc\n")
    assert document(result)["num_tokens"] == [3, 2, 5]


@pytest.mark.parametrize(("given", "said"), [("", "no texts"), (b"\xff\xfe", "not UTF-8")])
def test_standard_input_without_texts_ends_with_2(rtp: RunRtp, encoder: Path, given: str | bytes, said: str) -> None:
    result = rtp("embed", "-", *on_ref(encoder), input=given)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr and "error:" in result.stderr


def test_models_that_cannot_are_refused_with_3(rtp: RunRtp, encoder: Path, model: Path) -> None:
    for arguments, said in (
        (("embed", "a", *on_ref(model)), "rtp embed TEXT --model all-minilm-l6-v2"),
        (("generate", "a", *on_ref(encoder)), f"rtp embed TEXT --model {encoder}"),
        (("bench", "embed", "--tokens", 4, *on_ref(model)), "gives no embeddings"),
        (("bench", "latency", "--prompt-tokens", 4, "--output-tokens", 4, *on_ref(encoder)), "generates no text"),
    ):
        result = rtp(*arguments)
        assert (result.exit_code, result.stdout) == (3, "")
        assert said in result.stderr


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key'"),
        ({"is_decoder": True}, "bert with is_decoder"),
        ({"add_cross_attention": True}, "bert with add_cross_attention"),
        ({"hidden_act": "mish"}, "hidden_act is 'mish'"),
        ({"layer_norm_eps": -1.0}, "layer_norm_eps"),
        ({"type_vocab_size": 3}, "token_type_embeddings.weight is misshapen"),
        ({"max_position_embeddings": LENGTH + 1}, "position_embeddings.weight is misshapen"),
        ({"num_hidden_layers": 3}, "encoder.layer.2.attention.self.query.weight is missing"),
        ({"num_hidden_layers": 1}, "unexpected tensors"),
    ],
    ids=str,
)
def test_bad_encoders_end_with_3(rtp: RunRtp, tmp_path: Path, config: dict[str, object], said: str) -> None:
    result = rtp("embed", "a", *on_ref(write_encoder(tmp_path, **config)), "--json")
    assert (result.exit_code, result.stdout) == (3, "")
    assert said in result.stderr


def test_positions_and_heads_that_come_along_are_no_weights(rtp: RunRtp, tmp_path: Path) -> None:
    extra = {
        "embeddings.position_ids": np.arange(LENGTH)[None],
        "pooler.dense.weight": np.zeros((WIDTH, WIDTH), np.float32),
        "cls.predictions.bias": np.zeros(4, np.float32),
    }
    assert rtp("embed", "a", *on_ref(write_encoder(tmp_path, extra)), "--json").exit_code == 0
    integers = {"embeddings.LayerNorm.weight": np.zeros(WIDTH, np.int64)}
    result = rtp("embed", "a", *on_ref(write_encoder(tmp_path, integers)), "--json")
    assert result.exit_code == 3
    assert "tensor embeddings.LayerNorm.weight has integers" in result.stderr


def test_bench_embed_has_a_row_for_each_batch_and_the_machine(rtp: RunRtp, encoder: Path) -> None:
    arguments = ["bench", "embed", *on_ref(encoder), "--tokens", 7, "--batch", 1, "--batch", 3, "--rounds", 3]
    result = rtp(*arguments, "--json")
    found = document(result)
    assert [(row["batch"], row["tokens"]) for row in found["rows"]] == [(1, 7), (3, 7)]
    for row in found["rows"]:
        assert set(row) == {"batch", "tokens", "latency_ms_p50", "sequences_per_s"}
        assert row["sequences_per_s"] == pytest.approx(row["batch"] / row["latency_ms_p50"] * 1e3)
    assert set(found["machine"]) >= {"cpu", "cores", "memory_total_bytes", "os", "python", "versions", "device"}
    assert "batch 3" in result.stderr
    assert [line.split()[0] for line in rtp(*arguments).stdout.splitlines()] == ["BATCH", "1", "3"]


class TimedEncoder:
    """An LLM whose clock the test turns: each call takes the next of `seconds`."""

    max_model_len = 64
    config = SimpleNamespace(vocab_size=1000)

    def __init__(self, *seconds: float) -> None:
        self.now, self.prompts, self._seconds = 0.0, [], list(seconds)

    def clock(self) -> float:
        return self.now

    def embed(self, prompts: list[list[int]]) -> None:
        self.prompts.append(prompts)
        self.now += self._seconds.pop(0)


def test_bench_embed_is_the_median_of_the_rounds_after_the_warm_up() -> None:
    llm = TimedEncoder(100.0, 1.0, 4.0, 2.0)
    measured = measure_embed(llm, 8, 5, rounds=3, clock=llm.clock)  # type: ignore[arg-type]
    assert measured == EmbedLatency(8, 5, 2000.0, 4.0)
    assert len({str(prompts) for prompts in llm.prompts}) == 4
    assert all(len({p[0] for p in prompts}) == 8 and {len(p) for p in prompts} == {5} for prompts in llm.prompts)


@pytest.mark.parametrize(("batch", "tokens", "rounds"), [(0, 1, 3), (1, 0, 3), (1, 1, 2), (1, 65, 3)])
def test_what_cannot_be_measured_is_an_error(batch: int, tokens: int, rounds: int) -> None:
    llm = TimedEncoder()
    with pytest.raises(ConfigError, match="bench embed"):
        measure_embed(llm, batch, tokens, rounds=rounds, clock=llm.clock)  # type: ignore[arg-type]


def test_show_and_explain_know_encoders(rtp: RunRtp, encoder: Path) -> None:
    shown = document(rtp("models", "show", encoder, "--device", "ref", "--json"))
    assert shown["model_type"] == "bert"
    assert shown["memory"]["fits"] is True
    assert (shown["memory"]["kv_bytes_per_token"], shown["memory"]["kv_tokens"]) == (0, 0)
    assert shown["memory"]["work_space_bytes"] > 0
    plan = document(rtp("devices", "explain", "--model", encoder, "--device", "ref", "--json"))["plan"]
    assert {tuple(row["features"]) for row in plan if row["op"] == "model_forward"} == {
        ("bias", "encoder", "layer_norm")
    }


def test_an_encoder_that_does_not_fit_ends_with_5_in_numbers(rtp: RunRtp, encoder: Path) -> None:
    result = rtp("embed", "a", "--model", encoder, "--device", "ref", "--memory-budget", "1MiB")
    assert result.exit_code == 5
    assert "weights" in result.stderr and "work space" in result.stderr and "KV" not in result.stderr
