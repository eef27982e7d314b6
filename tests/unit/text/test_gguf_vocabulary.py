"""Tokenizers rebuilt from GGUF metadata: against sentencepiece and transformers, and tables that lie."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from tokenizers import pre_tokenizers, trainers
from transformers import Qwen2Tokenizer

from rtp_core.errors import CheckpointError, UnsupportedModelError
from rtp_core.text.gguf_vocabulary import build_tokenizer
from rtp_core.text.tokenizer import Tokenizer

CORPUS = [
    "The quick brown fox jumps over the lazy dog. It was not there, and then it was there again.",
    "def add(first, second):\n    return first + second\n",
    "Ein Beispiel mit Umlauten: schön, über, Straße. 12345 numbers 67890!",
    "這是一個測試。世界你好、你好世界。",
] * 5  # fmt: skip
DATA = {
    path.stem: path.read_text(encoding="utf-8")
    for path in sorted((Path(__file__).parents[2] / "data" / "texts").glob("*.txt"))
}
TEXTS = [
    "hello there", " leading", "two  spaces   three", "", " ", "trailing ", "The fox was over there again.",
    "schön 世界 😀 é\n\tx", "unknown ☃ character", "return first + second", "a▁b", "123 12345",
]  # fmt: skip


@pytest.fixture(scope="module")
def sentence_piece() -> tuple[Any, dict[str, Any]]:
    """A SentencePiece BPE model trained here, and the same model as GGUF metadata."""
    spm = pytest.importorskip("sentencepiece")
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=model,
        vocab_size=420,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    oracle = spm.SentencePieceProcessor(model_proto=model.getvalue())
    ids = range(oracle.get_piece_size())
    types = [2 if oracle.is_unknown(i) else 3 if oracle.is_control(i) else 6 if oracle.is_byte(i) else 1 for i in ids]
    return oracle, {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [oracle.id_to_piece(i) for i in ids],
        "tokenizer.ggml.scores": np.array([oracle.get_score(i) for i in ids], np.float32),
        "tokenizer.ggml.token_type": np.array(types, np.int32),
        "tokenizer.ggml.bos_token_id": oracle.bos_id(),
        "tokenizer.ggml.eos_token_id": oracle.eos_id(),
        "tokenizer.ggml.unknown_token_id": oracle.unk_id(),
    }


@pytest.mark.parametrize("text", TEXTS)
def test_sentence_piece_models_encode_and_decode_as_sentencepiece_does(
    sentence_piece: tuple[Any, dict[str, Any]], text: str
) -> None:
    oracle, metadata = sentence_piece
    tokenizer = Tokenizer.from_gguf(metadata)
    expected = oracle.encode(text)
    assert tokenizer.encode(text, add_special=False) == expected
    assert tokenizer.encode(text) == [oracle.bos_id(), *expected]
    assert tokenizer.decode(expected) == oracle.decode(expected)


def test_bos_and_eos_follow_the_files_own_flags(sentence_piece: tuple[Any, dict[str, Any]]) -> None:
    oracle, metadata = sentence_piece
    plain = oracle.encode("hello")
    off = Tokenizer.from_gguf(metadata | {"tokenizer.ggml.add_bos_token": False})
    both = Tokenizer.from_gguf(metadata | {"tokenizer.ggml.add_eos_token": True})
    assert off.encode("hello") == plain
    assert both.encode("hello") == [oracle.bos_id(), *plain, oracle.eos_id()]
    assert both.encode_chat("<s>") == [oracle.bos_id()]


def test_without_a_space_prefix_text_is_taken_as_it_is(sentence_piece: tuple[Any, dict[str, Any]]) -> None:
    _, metadata = sentence_piece
    tokenizer = Tokenizer.from_gguf(metadata | {"tokenizer.ggml.add_space_prefix": False})
    ids = tokenizer.encode("there", add_special=False)
    assert tokenizer.id_to_token(ids[0]) != "▁there"
    assert tokenizer.decode(ids) == "there"
    assert tokenizer.decode(tokenizer.encode(" there", add_special=False)) == " there"


ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())


def byte_level(pre: str = "gpt-2", **more: Any) -> dict[str, Any]:
    tokens = [*ALPHABET, "ab", "abc", "<|end|>", "user"]
    given = {
        "model": "gpt2",
        "pre": pre,
        "tokens": tokens,
        "merges": ["a b", "ab c"],
        "token_type": np.array([1] * 258 + [3, 4], np.int32),
        "eos_token_id": 258,
    }
    return {f"tokenizer.ggml.{k}": v for k, v in (given | more).items() if v is not None}


WORDS = "I'm  here, it'S 12345 a1b2\r\n\n  x世界。 ½ café\u0301 !!\n\n?\t\ty 'll"


def test_qwen2_splits_words_as_transformers_does() -> None:
    theirs = Qwen2Tokenizer(vocab={c: n for n, c in enumerate(ALPHABET)}, merges=[])._tokenizer
    ours = build_tokenizer(byte_level("qwen2"), "m.gguf").inner
    assert ours.pre_tokenizer.pre_tokenize_str(WORDS) == theirs.pre_tokenizer.pre_tokenize_str(WORDS)
    assert ours.normalizer.normalize_str("e\u0301") == theirs.normalizer.normalize_str("e\u0301") == "é"


@pytest.fixture(scope="module")
def trained() -> tuple[Qwen2Tokenizer, Tokenizer]:
    """A small vocabulary of words as Qwen2 splits them: in transformers' tokenizer, and as GGUF metadata in ours."""
    inner = Qwen2Tokenizer(vocab={c: n for n, c in enumerate(ALPHABET)}, merges=[])._tokenizer
    trainer = trainers.BpeTrainer(vocab_size=900, initial_alphabet=ALPHABET, show_progress=False)
    inner.train_from_iterator([*CORPUS, *DATA.values()], trainer)
    model = json.loads(inner.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    merges = [tuple(merge) for merge in model["merges"]]
    metadata = byte_level(
        "qwen2", tokens=tokens, merges=[" ".join(merge) for merge in merges], token_type=None, eos_token_id=None
    )
    return Qwen2Tokenizer(vocab=model["vocab"], merges=merges), Tokenizer.from_gguf(metadata)


@pytest.mark.parametrize("name", DATA)
def test_qwen2_encodes_the_corpus_as_transformers_does(trained: tuple[Qwen2Tokenizer, Tokenizer], name: str) -> None:
    theirs, ours = trained
    expected = theirs.encode(DATA[name], add_special_tokens=False)
    assert len(expected) < 0.8 * len(DATA[name].encode())  # there is something to merge
    assert ours.encode(DATA[name]) == expected


@settings(deadline=None, max_examples=200)
@given(
    text=st.text(
        st.sampled_from("aZ1½ \t\r\n\u00a0\u3000'\u2019sS.!?_-é\u0301世界😀\u200d") | st.characters(codec="utf-8"),
        max_size=40,
    )
)
def test_qwen2_encodes_any_text_as_transformers_does(trained: tuple[Qwen2Tokenizer, Tokenizer], text: str) -> None:
    theirs, ours = trained
    assert ours.encode(text) == theirs.encode(text, add_special_tokens=False)


@pytest.mark.parametrize(
    ("pre", "numbers"),
    [
        ("smollm", ["1", "2", "3", "4", "5"]),
        ("qwen2", ["1", "2", "3", "4", "5"]),
        ("llama-bpe", ["123", "45"]),
        ("gpt-2", ["12345"]),
        ("default", ["12345"]),
    ],
)
def test_each_pre_tokenizer_splits_numbers_in_its_own_way(pre: str, numbers: list[str]) -> None:
    inner = build_tokenizer(byte_level(pre), "m.gguf").inner
    assert [word for word, _ in inner.pre_tokenizer.pre_tokenize_str("12345")] == numbers


def test_control_tokens_are_special_and_user_tokens_are_not() -> None:
    tokenizer = Tokenizer.from_gguf(byte_level())
    ids = tokenizer.encode("abc<|end|>user")
    assert ids == [257, 258, 259]
    assert tokenizer.decode(ids) == "abcuser"
    assert tokenizer.eos_token_ids == (258,)


def test_llama3_begins_with_bos_unless_told_otherwise() -> None:
    assert Tokenizer.from_gguf(byte_level("llama-bpe", bos_token_id=258)).encode("ab") == [258, 256]
    quiet = byte_level("llama-bpe", bos_token_id=258, add_bos_token=False)
    assert Tokenizer.from_gguf(quiet).encode("ab") == [256]
    assert Tokenizer.from_gguf(byte_level("gpt-2", bos_token_id=258)).encode("ab") == [256]


@pytest.mark.parametrize(
    "more",
    [
        {"tokens": None},
        {"tokens": []},
        {"tokens": [1, 2]},
        {"tokens": np.arange(3)},
        {"tokens": ["a", "a"], "token_type": None},
        {"tokens": ["a" * 5000], "token_type": None, "merges": []},
        {"token_type": np.ones(3, np.int32)},
        {"token_type": [1] * 260},
        {"merges": None},
        {"merges": ["a"]},
        {"merges": ["a zz"]},
        {"merges": ["b a"]},
        {"merges": [3]},
        {"eos_token_id": 260},
        {"eos_token_id": -1},
        {"eos_token_id": "x"},
        {"bos_token_id": np.array([], np.int32)},
        {"add_bos_token": 1},
        {"model": "llama"},
        {"model": "llama", "scores": np.full(260, np.nan, np.float32)},
    ],
)
def test_tables_that_do_not_fit_are_refused_by_name(more: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.ggml\..*m\.gguf"):
        Tokenizer.from_gguf(byte_level(**more), Path("m.gguf"))


def test_unused_tokens_may_share_a_text() -> None:
    tokens = [*ALPHABET, "pad", "pad"]
    types = np.array([1] * 256 + [5, 5], np.int32)
    tokenizer = Tokenizer.from_gguf(byte_level(tokens=tokens, token_type=types, merges=[], eos_token_id=None))
    assert tokenizer.encode("a") == [ALPHABET.index("a")]
    assert tokenizer.vocab_size == 257, "the second one is nobody's"


@pytest.mark.parametrize("pre", ["gpt-2", "qwen2", "llama-bpe"])
def test_the_largest_id_is_that_of_the_vocabulary(pre: str) -> None:
    built = build_tokenizer(byte_level(pre), "m.gguf")
    assert built.vocab_size == max(built.inner.get_vocab(with_added_tokens=True).values()) + 1 == 260


@pytest.mark.parametrize("more", [{"model": "bert"}, {"model": None}, {"model": 3}, {"pre": "tekken"}, {"pre": 3}])
def test_other_models_and_pre_tokenizers_are_unsupported_and_the_supported_named(more: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedModelError, match="supported are"):
        Tokenizer.from_gguf(byte_level() | {f"tokenizer.ggml.{k}": v for k, v in more.items()})
