"""Hugging Face folders -> Checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from rtp_core.checkpoint.checkpoint import TokenizerFiles
from rtp_core.checkpoint.opening import open_checkpoint
from rtp_core.errors import CheckpointError, UnsupportedModelError

CONFIG = {
    "model_type": "llama",
    "vocab_size": 10,
    "hidden_size": 4,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    safetensors.numpy.save_file({"w": np.ones((2, 2), np.float16)}, tmp_path / "model.safetensors")
    return tmp_path


def put(folder: Path, name: str, data: Any) -> None:
    (folder / name).write_text(data if isinstance(data, str) else json.dumps(data))


def test_a_folder_with_config_and_weights_is_enough(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    assert (checkpoint.format, checkpoint.nbytes, set(checkpoint.tensors)) == ("safetensors", 8, {"w"})
    assert (checkpoint.tokenizer, checkpoint.chat_template, dict(checkpoint.generation_config)) == (None, None, {})


def test_the_tokenizers_files_are_pointed_to(folder: Path) -> None:
    put(folder, "tokenizer.json", {})
    put(folder, "tokenizer_config.json", {"bos_token": "<s>"})
    assert open_checkpoint(folder).tokenizer == TokenizerFiles(folder / "tokenizer.json", {"bos_token": "<s>"})


def test_the_chat_template_is_a_file_or_a_text_or_one_of_several(folder: Path) -> None:
    put(
        folder,
        "tokenizer_config.json",
        {"chat_template": [{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]},
    )
    assert open_checkpoint(folder).chat_template == "d"
    put(folder, "tokenizer_config.json", {"chat_template": "t"})
    assert open_checkpoint(folder).chat_template == "t"
    put(folder, "chat_template.jinja", "file é")
    assert open_checkpoint(folder).chat_template == "file é"


@pytest.mark.parametrize(
    "template", [3, [], [{"name": "rag", "template": "r"}], [{"name": "default"}, 3], {"default": "x"}]
)
def test_a_chat_template_of_another_kind_is_refused_or_absent(folder: Path, template: Any) -> None:
    put(folder, "tokenizer_config.json", {"chat_template": template})
    if template == [{"name": "default"}, 3]:
        assert open_checkpoint(folder).chat_template is None
    else:
        with pytest.raises(CheckpointError, match="chat_template"):
            open_checkpoint(folder)


def test_known_generation_settings_are_kept(folder: Path) -> None:
    put(
        folder,
        "generation_config.json",
        {"temperature": 0.6, "top_k": 20, "eos_token_id": [3, 4], "do_sample": True, "x": 1},
    )
    expected = {"temperature": 0.6, "top_k": 20, "do_sample": True, "eos_token_ids": (3, 4)}
    assert dict(open_checkpoint(folder).generation_config) == expected


@pytest.mark.parametrize(
    "bad", [{"temperature": "hot"}, {"top_p": 1.5}, {"temperature": -1}, {"top_k": True}, {"eos_token_id": "x"}]
)
def test_generation_settings_out_of_range_are_refused(folder: Path, bad: dict[str, Any]) -> None:
    put(folder, "generation_config.json", bad)
    with pytest.raises(CheckpointError, match=r"generation_config\.json"):
        open_checkpoint(folder)


def test_nan_is_not_a_temperature(folder: Path) -> None:
    put(folder, "generation_config.json", '{"temperature": NaN}')
    with pytest.raises(CheckpointError, match="temperature"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"a": 1,\n "b" 2}', "line 2, column 6"),
        ("", "line 1, column 1"),
        ("[" * 100_000, "JSON"),
        ('{"a": ' + "1" * 10_000 + "}", "JSON"),
        ("[1]", "expected an object"),
    ],
)
def test_invalid_json_is_an_error_with_file_and_position(folder: Path, text: str, why: str) -> None:
    put(folder, "config.json", text)
    with pytest.raises(CheckpointError, match=why) as caught:
        open_checkpoint(folder)
    assert "config.json" in str(caught.value)


def test_a_config_of_monstrous_size_is_refused(folder: Path) -> None:
    put(folder, "config.json", " " * (17 << 20))
    with pytest.raises(CheckpointError, match="too large"):
        open_checkpoint(folder)


def test_missing_weights_are_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        open_checkpoint(folder)


def test_the_callers_model_types_are_respected(folder: Path) -> None:
    assert open_checkpoint(folder, supported=("llama",)).config.model_type == "llama"
    with pytest.raises(UnsupportedModelError, match="bert"):
        open_checkpoint(folder, supported=("bert",))
