"""A small random model in the shape of Qwen2, for benchmarks to run."""

from __future__ import annotations

from pathlib import Path

import framework_cost
import pytest
from comparison.random_qwen2 import NORMAL, Shape, Vocabulary, write_folder

from rtp_core.text.byte_alphabet import BYTE_OF_CHARACTER

SHAPE = Shape(
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=96,
    vocab_size=framework_cost.TOKEN + 1,
    max_position_embeddings=64,
)
VOCABULARY = Vocabulary([*sorted(BYTE_OF_CHARACTER), "ab", "<|end|>"], [NORMAL] * 257 + [3], ["a b"], 257)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "folder", SHAPE, VOCABULARY)
