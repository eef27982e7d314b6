"""`rtp bench latency`, and the measuring beneath it against a clock of our own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rtp_core.engine.engine import Progress
from rtp_core.engine.latency import Load, measure
from rtp_core.errors import ConfigError
from rtp_core.request import SamplingParams

from .conftest import RunRtp
from .scripted_model import document, on_ref

KEYS = {
    "batch",
    "prompt_tokens",
    "output_tokens",
    "prefill_tokens_per_s",
    "decode_tokens_per_s",
    "ttft_ms",
    "itl_ms_p50",
    "itl_ms_p99",
}


class ScriptedEngine:
    """An LLM whose clock the test turns: prefill takes `prefill_s` for each request, a decode step `decode_s`."""

    max_model_len = 64
    config = SimpleNamespace(vocab_size=1000)

    def __init__(self, prefill_s: Sequence[float], decode_s: float, *, missing: int = 0) -> None:
        self.now = 0.0
        self.prompts: list[list[list[int]]] = []
        self._prefill_s, self._decode_s, self._missing = prefill_s, decode_s, missing

    def clock(self) -> float:
        return self.now

    def stream_batch(self, prompts: Any, sampling: SamplingParams) -> Iterator[Progress]:
        assert sampling.is_greedy and sampling.ignore_eos
        self.prompts.append(prompts)
        self.now += self._prefill_s[(len(self.prompts) - 1) % len(self._prefill_s)]
        assert sampling.max_tokens is not None
        for step in range(sampling.max_tokens - self._missing):
            self.now += self._decode_s if step else 0.0
            for i in range(len(prompts)):
                yield Progress(str(i), "", 7, None, {}, None)


def test_speeds_and_times_are_medians_of_the_rounds_after_the_warm_up() -> None:
    engine = ScriptedEngine([100.0, 1.0, 3.0, 2.0], decode_s=0.25)
    latency = measure(engine, Load(batch=4, prompt_tokens=8, output_tokens=5), clock=engine.clock)  # type: ignore[arg-type]
    assert latency.ttft_ms == pytest.approx(2000)
    assert latency.prefill_tokens_per_s == pytest.approx(4 * 8 / 2.0)
    assert latency.decode_tokens_per_s == pytest.approx(4 * 4 / 1.0)
    assert latency.itl_ms_p50 == latency.itl_ms_p99 == pytest.approx(250)


def test_prompts_are_distinct_and_the_same_for_a_seed() -> None:
    engines = [ScriptedEngine([1.0], 1.0) for _ in range(3)]
    for engine, seed in zip(engines, (5, 5, 6), strict=True):
        measure(engine, Load(16, 4, 2), seed=seed, clock=engine.clock)  # type: ignore[arg-type]
    rounds = engines[0].prompts
    assert len(rounds) == 4
    for prompts in rounds:
        assert {len(prompt) for prompt in prompts} == {4}
        assert len({prompt[0] for prompt in prompts}) == 16
        assert all(0 <= token < 1000 for prompt in prompts for token in prompt)
    assert len({str(prompts) for prompts in rounds}) == 4
    assert engines[1].prompts == rounds
    assert engines[2].prompts != rounds


def test_one_output_token_has_no_decode_speed() -> None:
    engine = ScriptedEngine([1.0], 1.0)
    latency = measure(engine, Load(2, 4, 1), clock=engine.clock)  # type: ignore[arg-type]
    assert (latency.decode_tokens_per_s, latency.itl_ms_p50, latency.itl_ms_p99) == (0, 0, 0)
    assert latency.prefill_tokens_per_s == 8


@pytest.mark.parametrize(
    ("load", "rounds", "missing", "said"),
    [
        (Load(0, 4, 4), 3, 0, "batch: 0"),
        (Load(1, 4, 4), 2, 0, "rounds: 2"),
        (Load(1, 40, 25), 3, 0, "max_model_len is 64"),
        (Load(1, 4, 4), 3, 1, "ended after 3 of 4"),
    ],
)
def test_what_cannot_be_measured_is_an_error(load: Load, rounds: int, missing: int, said: str) -> None:
    engine = ScriptedEngine([1.0], 1.0, missing=missing)
    with pytest.raises(ConfigError, match=said):
        measure(engine, load, rounds=rounds, clock=engine.clock)  # type: ignore[arg-type]


def test_bench_latency_has_a_row_for_each_batch_and_the_machine(rtp: RunRtp, model: Path) -> None:
    sizes = ["--prompt-tokens", 5, "--output-tokens", 3, "--batch", 1, "--batch", 4]
    result = rtp("bench", "latency", *on_ref(model), *sizes, "--json")
    found = document(result)
    assert [(row["batch"], row["prompt_tokens"], row["output_tokens"]) for row in found["rows"]] == [
        (1, 5, 3),
        (4, 5, 3),
    ]
    for row in found["rows"]:
        assert set(row) == KEYS
        assert all(value > 0 for value in row.values())
    assert set(found["machine"]) >= {"cpu", "cores", "memory_total_bytes", "os", "python", "versions", "device"}
    assert "batch 4" in result.stderr
    table = rtp("bench", "latency", *on_ref(model), *sizes).stdout
    assert [line.split()[0] for line in table.splitlines()] == ["BATCH", "1", "4"]


@pytest.mark.parametrize(
    "arguments", [["--rounds", 1], ["--batch", 0], ["--batch", 65], ["--prompt-tokens", 99999], ["--seed", -1]]
)
def test_bad_benchmarks_end_with_2(rtp: RunRtp, model: Path, arguments: list[object]) -> None:
    result = rtp("bench", "latency", *on_ref(model), *arguments)
    assert (result.exit_code, result.stdout) == (2, "")


def test_batches_come_from_the_environment(rtp: RunRtp, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTP_BATCH", "2 3")
    found = document(rtp("bench", "latency", *on_ref(model), "--prompt-tokens", 2, "--output-tokens", 2, "--json"))
    assert [row["batch"] for row in found["rows"]] == [2, 3]
