"""`rtp eval perplexity` on the scripted model, whose next token is almost certain."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import RunRtp
from .scripted_model import document, on_ref

KEYS = {"schema", "tokens", "perplexity", "kl", "top1_agreement", "logprob_difference", "context", "reference"}
SCRIPTED = "zyxzyxzyxzyx"  # as the model expects it


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(SCRIPTED, encoding="utf-8")
    return path


def test_a_text_that_the_model_expects_has_perplexity_1(rtp: RunRtp, model: Path, text: Path) -> None:
    result = rtp("eval", "perplexity", *on_ref(model), "--text", text, "--json")
    found = document(result)
    assert set(found) >= KEYS
    assert found["tokens"] == len(SCRIPTED) - 1
    assert found["perplexity"] == pytest.approx(1, abs=1e-3)
    assert (found["kl"], found["top1_agreement"], found["logprob_difference"]) == (None, None, None)
    assert "window 1 of 1" in result.stderr


def test_against_a_reference_there_are_distances(rtp: RunRtp, model: Path, text: Path) -> None:
    reference = ["--reference", "float32", "--context", 5]
    found = document(rtp("eval", "perplexity", *on_ref(model), "--text", text, *reference, "--json"))
    assert found["tokens"] == 4 + 4 + 1
    assert (found["kl"], found["top1_agreement"], found["logprob_difference"]) == (0, 1, 0)
    table = rtp("eval", "perplexity", *on_ref(model), "--text", text, *reference).stdout
    assert "perplexity: " in table and "top1 agreement: 1\n" in table


def test_a_dash_reads_standard_input(rtp: RunRtp, model: Path) -> None:
    result = rtp("eval", "perplexity", *on_ref(model), "--text", "-", "--json", input="zyxz")
    assert document(result)["tokens"] == 3


@pytest.mark.parametrize(
    ("given", "said"), [("", "the text is empty"), ("z", "the text has 1 token"), (b"\xff", "not UTF-8")]
)
def test_a_text_that_cannot_be_scored_is_one_error(rtp: RunRtp, model: Path, given: str | bytes, said: str) -> None:
    result = rtp("eval", "perplexity", *on_ref(model), "--text", "-", input=given)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr


@pytest.mark.parametrize("arguments", [["--text", "absent.txt"], ["--context", 1], ["--context", 10**6]])
def test_bad_options_end_with_2(rtp: RunRtp, model: Path, text: Path, arguments: list[object]) -> None:
    result = rtp("eval", "perplexity", *on_ref(model), "--text", text, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
