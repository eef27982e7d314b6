"""The random model's files: the same weights in every format, and rtp runs them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from comparison import models, random_qwen2
from comparison.random_qwen2 import NORMAL, Vocabulary, weights, write_folder, write_gguf
from tiny_shape import TINY_QWEN2

from rtp_core import LLM, SamplingParams
from rtp_core.text.byte_alphabet import BYTE_OF_CHARACTER

BYTES = sorted(BYTE_OF_CHARACTER)
VOCABULARY = Vocabulary([*BYTES, "ab", "<|end|>"], [NORMAL] * 257 + [3], ["a b"], 257)


def scores(path: Path) -> list[float]:
    params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
    with LLM(str(path), device="ref", dtype="float32", memory_budget=64 << 20) as llm:
        assert llm.tokenizer.encode("abc") == [256, BYTES.index("c")]
        assert llm.config.vocab_size == 320
        output = llm.generate([list(range(0, 320, 7))], params)[0]
    return [next(iter(found.values())) for found in output.prompt_logprobs[1:]]


def test_all_formats_are_one_model(tmp_path: Path) -> None:
    exact = scores(write_folder(tmp_path / "folder", TINY_QWEN2, VOCABULARY))
    q8_0 = scores(write_gguf(tmp_path / "m.Q8_0.gguf", TINY_QWEN2, VOCABULARY, "Q8_0"))
    q4_0 = scores(write_gguf(tmp_path / "m.Q4_0.gguf", TINY_QWEN2, VOCABULARY, "Q4_0"))
    assert np.std(exact) > 0.3  # or agreeing would be no news
    assert q8_0 == pytest.approx(exact, abs=0.1)
    assert np.abs(np.subtract(q8_0, exact)).mean() < np.abs(np.subtract(q4_0, exact)).mean() < 0.3
    assert {path.name for path in tmp_path.iterdir()} == {"folder", "m.Q8_0.gguf", "m.Q4_0.gguf"}


def test_a_file_becomes_a_folder_of_the_same_model(tmp_path: Path) -> None:
    """What engines that do not read GGUF run."""
    file = write_gguf(tmp_path / "m.Q4_0.gguf", TINY_QWEN2, VOCABULARY, "Q4_0")
    model = models.smollm2(file, tmp_path, None)
    assert model.ggufs == {"Q4_0": file}
    assert model.folder is not None
    assert scores(model.folder) == pytest.approx(scores(file), abs=0.05)  # bfloat16


def test_values_do_not_ask_how_many_are_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list(weights(TINY_QWEN2))
    monkeypatch.setattr(random_qwen2, "DRAWN_AT_ONCE", 1001)
    for (weight, expected), (_, values) in zip(whole, weights(TINY_QWEN2), strict=True):
        assert values.shape == weight.size
        np.testing.assert_array_equal(values, expected)


def test_a_vocabulary_that_is_too_large_is_an_error() -> None:
    with pytest.raises(ValueError, match="258 tokens does not go into 100"):
        VOCABULARY.filled_to(100)
