"""A small random model in the shape of Qwen2, for benchmarks to run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import framework_cost
import pytest
from comparison.random_qwen2 import NORMAL, Vocabulary, write_folder
from tiny_shape import TINY_QWEN2

from rtp_core.text.byte_alphabet import BYTE_OF_CHARACTER

SHAPE = replace(TINY_QWEN2, vocab_size=framework_cost.TOKEN + 1, max_position_embeddings=64)
VOCABULARY = Vocabulary([*sorted(BYTE_OF_CHARACTER), "ab", "<|end|>"], [NORMAL] * 257 + [3], ["a b"], 257)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "folder", SHAPE, VOCABULARY)
