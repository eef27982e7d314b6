"""Whether decode steps are replayed, from the command line: a start says why not, unless it was asked not to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rtp_core.runner.decode_replay import DecodeReplay

from .conftest import RunRtp
from .scripted_model import SCRIPTS, document

SMALL = ("--memory-budget", "256MiB", "--max-model-len", 64, "--max-num-batched-tokens", 64, "--max-tokens", 40)


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many requests each replayed step has served."""
    seen: list[int] = []
    logits = DecodeReplay.logits

    def spy(replay: DecodeReplay, requests: Any) -> Any:
        seen.append(len(requests))
        return logits(replay, requests)

    monkeypatch.setattr(DecodeReplay, "logits", spy)
    return seen


@pytest.mark.parametrize(
    ("device", "options", "is_replayed", "said"),
    [
        ("cpu", (), True, ""),
        ("cpu", ("--enforce-eager",), False, ""),
        (
            "cpu",
            ("--disable-impl", "cpu.decoder_self_attention"),
            False,
            "cpu:0: decode steps run op by op: an op of the plan reads context lengths on the host\n",
        ),
        ("ref", (), False, "ref:0: decode steps run op by op: this device records no steps\n"),
        ("ref", ("--enforce-eager",), False, ""),
    ],
)
def test_a_start_says_why_steps_run_op_by_op(
    device: str, options: tuple[str, ...], is_replayed: bool, said: str, model: Path, rtp: RunRtp, sizes: list[int]
) -> None:
    place = ("--model", model, "--device", device, "--dtype", "float32")
    result = rtp("generate", "a", "--raw", "--json", *place, *SMALL, *options)
    assert result.exit_code == 0, result.stderr
    assert document(result)["text"] == SCRIPTS["a"]
    assert result.stderr == said
    assert bool(sizes) == is_replayed


def test_the_environment_may_ask_for_it(
    model: Path, rtp: RunRtp, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RTP_ENFORCE_EAGER", "1")
    place = ("--model", model, "--device", "cpu", "--dtype", "float32")
    assert rtp("generate", "a", "--raw", *place, *SMALL).exit_code == 0
    assert sizes == []


def test_models_show_tells_the_memory_of_recorded_steps(model: Path, rtp: RunRtp) -> None:
    limits = SMALL[:6]
    for device, is_recorded in (("cpu", True), ("ref", False)):
        facts = document(rtp("models", "show", model, "--device", device, *limits, "--json"))["memory"]
        assert (facts["replay_bytes"] > 0) == is_recorded
