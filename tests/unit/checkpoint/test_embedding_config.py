"""The files of sentence-transformers: what they say, and that nothing else is taken for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rtp_core.checkpoint.embedding_config import EmbeddingConfig, read_embedding_config
from rtp_core.errors import CheckpointError, UnsupportedModelError

SIZE = 8  # hidden_size
OLD = "sentence_transformers.models."
NEW = "sentence_transformers.sentence_transformer.modules.pooling."


def modules(*kinds: str, **changes: Any) -> list[dict[str, Any]]:
    listed = [{"idx": i, "name": str(i), "path": f"{i}_M" if i else "", "type": kind} for i, kind in enumerate(kinds)]
    listed[-1].update(changes)
    return listed


PLAIN = modules(f"{OLD}Transformer", f"{OLD}Pooling")


def read(
    folder: Path, modules: Any = PLAIN, pooling: Any = None, tokenizer: Any = None, **files: Any
) -> EmbeddingConfig:
    (folder / "1_M").mkdir()
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_M" / "config.json").write_text(json.dumps(pooling or {}))
    for name, contents in files.items():
        (folder / f"{name}.json").write_text(json.dumps(contents))
    return read_embedding_config(folder, SIZE, tokenizer or {})


def test_a_folder_without_modules_has_the_mean_and_the_tokenizers_length(tmp_path: Path) -> None:
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 3}')  # read with modules.json only
    assert read_embedding_config(tmp_path, SIZE, {"model_max_length": 1e30}) == EmbeddingConfig(
        max_seq_length=2**31 - 1
    )
    assert read_embedding_config(tmp_path, SIZE, {}) == EmbeddingConfig()


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({}, ("mean",)),
        ({"pooling_mode_cls_token": True}, ("cls",)),
        ({"pooling_mode_mean_tokens": False}, ("mean",)),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, ("cls", "mean")),
        ({"pooling_mode": "max", "embedding_dimension": SIZE}, ("max",)),
        ({"pooling_mode": ["mean", "mean_sqrt_len_tokens"], "include_prompt": True}, ("mean", "mean_sqrt_len_tokens")),
        ({"pooling_mode": "max", "pooling_mode_cls_token": True}, ("max",)),
    ],
    ids=str,
)
def test_modes_in_both_spellings(pooling: dict[str, Any], expected: tuple[str, ...], tmp_path: Path) -> None:
    assert read(tmp_path, pooling=pooling).pooling == expected


def test_everything_at_once(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        modules(f"{NEW}Transformer", f"{NEW}Pooling", f"{NEW}Normalize"),
        {"word_embedding_dimension": SIZE, "pooling_mode_max_tokens": True},
        {"model_max_length": 512},
        sentence_bert_config={"max_seq_length": 256, "do_lower_case": True},
        config_sentence_transformers={"prompts": {"query": "q: "}, "default_prompt_name": "query"},
    )
    assert found == EmbeddingConfig(("max",), True, 256, True, "q: ")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"modules": modules(f"{OLD}Transformer", f"{OLD}Pooling", f"{OLD}Dense")}, "modules Transformer, Pooling, De"),
        ({"modules": modules(f"{OLD}Transformer")}, "unsupported modules Transformer"),
        ({"modules": modules(f"{OLD}Pooling", f"{OLD}Transformer")}, "unsupported modules"),
        ({"modules": []}, "unsupported modules"),
        ({"modules": [{"type": "a.Transformer", "path": "0_T"}, *PLAIN[1:]]}, "in the model's own folder"),
        ({"pooling": {"pooling_mode": "lasttoken"}}, "pooling lasttoken.*supported are cls"),
        ({"pooling": {"pooling_mode_weightedmean_tokens": True}}, "pooling weightedmean"),
        ({"pooling": {"include_prompt": False}}, "pooling without the prompt"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_rtp_does_not_have_is_unsupported(files: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=said):
        read(tmp_path, **files)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"modules": {}}, "expected a list, got dict"),
        ({"modules": ["Transformer", "Pooling"]}, "expected objects with type and path"),
        ({"modules": [{"type": 1}]}, "expected objects"),
        ({"modules": modules("Transformer", "Pooling", path="../1_M")}, "name of a folder beside it"),
        ({"modules": modules("Transformer", "Pooling", path="..")}, "name of a folder beside it"),
        ({"modules": modules("Transformer", "Pooling", path="/etc")}, "name of a folder beside it"),
        ({"modules": modules("Transformer", "Pooling", path="")}, "name of a folder beside it"),
        ({"modules": modules("Transformer", "Pooling", path="a\0b")}, "name of a folder beside it"),
        ({"modules": modules("Transformer", "Pooling", path="2_M")}, "cannot read model file"),
        ({"pooling": [1]}, "expected an object, got list"),
        ({"pooling": {"word_embedding_dimension": 9}}, "expected hidden_size, 8, got 9"),
        ({"pooling": {"pooling_mode_cls_token": "yes"}}, "expected true or false"),
        ({"pooling": {"pooling_mode": []}}, "expected one mode"),
        ({"pooling": {"pooling_mode": [["cls"]]}}, "expected one mode"),
        ({"pooling": {"pooling_mode": ["cls"] * 1000}}, "expected one mode"),
        ({"sentence_bert_config": {"max_seq_length": 0}}, "bad max_seq_length"),
        ({"sentence_bert_config": {"max_seq_length": "256"}}, "bad max_seq_length"),
        ({"sentence_bert_config": {"do_lower_case": 1}}, "bad do_lower_case"),
        ({"tokenizer": {"model_max_length": -5}}, "bad model_max_length"),
        ({"tokenizer": {"model_max_length": True}}, "bad model_max_length"),
        ({"config_sentence_transformers": {"default_prompt_name": "x"}}, "bad default_prompt_name"),
        ({"config_sentence_transformers": {"default_prompt_name": ["x"], "prompts": {}}}, "bad default_prompt_name"),
        ({"config_sentence_transformers": {"default_prompt_name": "x", "prompts": {"x": 1}}}, "bad default_prompt"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_makes_no_sense_is_a_bad_file(files: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=said):
        read(tmp_path, **files)
