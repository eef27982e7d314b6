"""The benchmark of a start runs the command line as a process, and tells when its first byte came."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import start
from comparison.random_qwen2 import NORMAL, Shape, Vocabulary, write_folder

from rtp_core.text.byte_alphabet import BYTE_OF_CHARACTER

SHAPE = Shape(
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=96,
    vocab_size=258,
    max_position_embeddings=64,
)
VOCABULARY = Vocabulary([*sorted(BYTE_OF_CHARACTER), "ab", "<|end|>"], [NORMAL] * 257 + [3], ["a b"], 257)


def test_it_tells_of_time_and_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_folder(tmp_path / "folder", SHAPE, VOCABULARY)
    start.main(["--rounds", "1", "--model", str(folder), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert 0 < found["rtp"]["first_token_s"] <= found["rtp"]["wall_s"]
    assert found["rtp"]["peak_rss_mib"] > 10
    assert found["first_token_limit_s"] == start.LIMIT_S and "llama.cpp" not in found
