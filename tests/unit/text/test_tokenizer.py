"""The default model's tokenizer against llama.cpp and transformers, and tokenizer.json files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Inner, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer

from rtp_core.checkpoint.checkpoint import TokenizerFiles
from rtp_core.errors import CheckpointError, ConfigError, UnsupportedModelError
from rtp_core.text.tokenizer import Cut, Tokenizer

RECORD = Path(__file__).parents[2] / "data" / "smollm2_llama_cpp_ids.json"
CASES: list[dict[str, Any]] = json.loads(RECORD.read_text())["cases"]


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_ids_are_those_of_llama_cpp(default_tokenizer: Tokenizer, case: dict[str, Any]) -> None:
    assert default_tokenizer.encode(case["text"]) == case["ids"]
    assert default_tokenizer.decode(case["ids"], skip_special=False) == case["text"]


def test_ids_are_those_of_transformers(default_tokenizer: Tokenizer, default_model_path: Path) -> None:
    theirs = AutoTokenizer.from_pretrained(str(default_model_path.parent), gguf_file=default_model_path.name)
    for case in CASES:
        if "Ⅷ" in case["text"]:  # transformers does not split such numerals off; llama.cpp and the model's makers do
            continue
        assert default_tokenizer.encode(case["text"]) == theirs(case["text"]).input_ids, case["text"]


def test_special_tokens_of_the_default_model_are_known(default_tokenizer: Tokenizer) -> None:
    assert (default_tokenizer.vocab_size, default_tokenizer.special_ids) == (49152, frozenset(range(17)))
    assert (default_tokenizer.bos_token_id, default_tokenizer.eos_token_ids) == (1, (2,))
    assert (default_tokenizer.bos_token, default_tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert default_tokenizer.is_byte_level
    assert default_tokenizer.decode([1, 19556, 2]) == "Hello"
    assert default_tokenizer.decode([1, 19556, 2], skip_special=False) == "<|im_start|>Hello<|im_end|>"


def test_ids_outside_the_vocabulary_have_no_text(default_tokenizer: Tokenizer) -> None:
    assert default_tokenizer.decode([-1, 19556, 49152, 2**40]) == "Hello"
    assert default_tokenizer.spelling(49152) == default_tokenizer.spelling(-1) == (b"", "")


def test_the_bytes_of_tokens_joined_are_the_text(default_tokenizer: Tokenizer) -> None:
    for case in CASES:
        joined = b"".join(default_tokenizer.spelling(token).utf8 for token in case["ids"])
        assert joined == case["text"].encode()


def test_lone_surrogates_are_replaced(default_tokenizer: Tokenizer) -> None:
    assert default_tokenizer.encode("a\ud800b") == default_tokenizer.encode("a�b")


@pytest.fixture
def inner() -> Inner:
    inner = Inner(models.BPE({"<s>": 0, "a": 1, "b": 2, "</s>": 3}, []))
    inner.add_special_tokens(["<s>", "</s>"])
    inner.decoder = decoders.ByteLevel()
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return inner


def test_a_tokenizer_json_keeps_its_own_bos_rule(inner: Inner, tmp_path: Path) -> None:
    inner.enable_truncation(2)
    inner.save(str(tmp_path / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": {"content": "</s>"}}
    tokenizer = Tokenizer.from_source(TokenizerFiles(tmp_path / "tokenizer.json", config))
    assert tokenizer.encode("ab" * 3) == [0, 1, 2, 1, 2, 1, 2]
    assert tokenizer.encode("ab", add_special=False) == [1, 2]
    assert tokenizer.encode_chat("<s>ab") == [0, 1, 2]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_ids, tokenizer.special_ids) == (0, (3,), {0, 3})


def test_a_tokenizer_without_special_tokens_in_its_config_has_none(inner: Inner, tmp_path: Path) -> None:
    inner.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.from_file(tmp_path / "tokenizer.json", {"eos_token": "nowhere"})
    assert (tokenizer.bos_token, tokenizer.bos_token_id, tokenizer.eos_token_ids) == (None, None, ())


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"model": {"type": "BPE"}}', "\xff", "[" * 10000, '{"model": 1e999}']
)
def test_a_damaged_tokenizer_json_is_a_checkpoint_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        Tokenizer.from_file(path)


def test_a_tokenizer_json_cut_anywhere_is_a_checkpoint_error(inner: Inner, tmp_path: Path) -> None:
    path, whole = tmp_path / "tokenizer.json", inner.to_str()
    for length in range(0, len(whole) - 1, 7):
        path.write_text(whole[:length])
        with pytest.raises(CheckpointError):
            Tokenizer.from_file(path)


@pytest.mark.parametrize("decoder", [None, decoders.CTC(), decoders.Sequence([decoders.ByteLevel(), decoders.Fuse()])])
def test_a_decoder_that_streaming_cannot_follow_is_unsupported(inner: Inner, tmp_path: Path, decoder: Any) -> None:
    if decoder is None:
        inner = Inner(models.BPE({"a": 0}, []))
    else:
        inner.decoder = decoder
    inner.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UnsupportedModelError, match="decoder"):
        Tokenizer.from_file(tmp_path / "tokenizer.json")


def test_a_cut_keeps_the_special_tokens_and_must_leave_room_for_more(tmp_path: Path) -> None:
    pieces = {token: i for i, token in enumerate(["[CLS]", "[SEP]", "[UNK]", "a", "B"])}
    inner = Inner(models.WordPiece(pieces, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.decoder = decoders.WordPiece()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 1)]
    )
    inner.enable_truncation(3)
    inner.enable_padding(length=9)
    path = tmp_path / "tokenizer.json"
    inner.save(str(path))
    text = "a B A a a a"
    assert Tokenizer.from_file(path).encode(text) == [0, 3, 4, 2, 3, 3, 3, 1]
    assert Tokenizer.from_file(path, cut=Cut(5)).encode(text) == [0, 3, 4, 2, 1]
    lowered = Tokenizer.from_file(path, cut=Cut(6, lowers=True))
    assert lowered.encode_batch([text, "", "\ud800"]) == [[0, 3, 2, 3, 3, 1], [0, 1], [0, 2, 1]]
    with pytest.raises(ConfigError, match=r"at most 2 tokens.*--max-model-len 3"):
        Tokenizer.from_file(path, cut=Cut(2))
