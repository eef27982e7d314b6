"""GGUF vocabulary -> a tokenizer of the `tokenizers` library, with every table checked first.

Two kinds: byte-level BPE ("gpt2") with merges, and SentencePiece BPE ("llama") with scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from rtp_core.config import as_tuple
from rtp_core.errors import CheckpointError, UnsupportedModelError

_UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 2, 3, 4, 5, 6  # token types; 1 is a normal one
_MAX_TOKEN = 1024  # characters: bounds the work of finding merges

# Splits of text into words before merging. Source: the pre_tokenizer of the models' own tokenizer.json.
_QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3_WORDS = _QWEN2_WORDS.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
_PRES = ("default", "gpt-2", "smollm", "qwen2", "llama-bpe")


@dataclass(frozen=True, slots=True)
class BuiltTokenizer:
    """A tokenizer, the texts of the tokens that begin and end, and a number above every token's id."""

    inner: Tokenizer
    vocab_size: int
    bos_token: str | None
    eos_tokens: tuple[str, ...]


def build_tokenizer(metadata: Mapping[str, Any], where: str) -> BuiltTokenizer:
    """Rebuild a tokenizer from `tokenizer.ggml.*`. Raises CheckpointError or UnsupportedModelError."""
    kind = metadata.get("tokenizer.ggml.model")
    build = {"gpt2": _byte_level, "llama": _sentence_piece}.get(kind if isinstance(kind, str) else "")
    if build is None:
        raise UnsupportedModelError(
            f"unsupported tokenizer model {kind!r:.60}", where=where, why="supported are gpt2, llama"
        )
    vocabulary = _Vocabulary(metadata, where)
    inner = build(vocabulary)
    added = [
        AddedToken(token, special=kind == _CONTROL, normalized=False)
        for token, kind in zip(vocabulary.tokens, vocabulary.types, strict=True)
        if kind in (_CONTROL, _USER_DEFINED) and token
    ]
    inner.add_tokens(added)
    bos = vocabulary.token_at("bos_token_id")
    eos = [vocabulary.token_at(key) for key in ("eos_token_id", "eot_token_id")]
    starts_with_bos = kind == "llama" or metadata.get("tokenizer.ggml.pre") == "llama-bpe"
    prefix = [bos] if vocabulary.flag("add_bos_token", starts_with_bos) and bos else []
    suffix = [eos[0]] if vocabulary.flag("add_eos_token", False) and eos[0] else []
    if prefix or suffix:
        inner.post_processor = _framed(inner, prefix, suffix)
    vocab_size = max(vocabulary.ids.values()) + 1
    return BuiltTokenizer(inner, vocab_size, bos, tuple(dict.fromkeys(token for token in eos if token)))


class _Vocabulary:
    """The checked tables: `tokens` by id, `types` and, where there are any, `scores` and `merges`."""

    def __init__(self, metadata: Mapping[str, Any], where: str) -> None:
        self._metadata, self.where = metadata, where
        self.tokens = self._texts("tokens")
        if not self.tokens:
            self.fail("tokens", "expected at least one token")
        self.types = self._numbers("token_type", default=1)
        longest = max(map(len, self.tokens))
        if longest > _MAX_TOKEN:
            self.fail("tokens", f"a token has {longest} characters, expected at most {_MAX_TOKEN}")
        self.ids = dict(zip(self.tokens, range(len(self.tokens)), strict=True))
        if len(self.ids) < len(self.tokens):
            self._take_first_ids()

    def _take_first_ids(self) -> None:
        """Of tokens that are given twice, which unused ones may be."""
        self.ids = {}
        for token_id, token in enumerate(self.tokens):
            if self.ids.setdefault(token, token_id) != token_id and self.types[token_id] != _UNUSED:
                self.fail("tokens", f"{token!r} is token {self.ids[token]} and token {token_id}")

    def fail(self, key: str, why: str, cause: Exception | None = None) -> NoReturn:
        raise CheckpointError(f"bad GGUF metadata 'tokenizer.ggml.{key}'", where=self.where, why=why) from cause

    def flag(self, key: str, default: bool) -> bool:
        value = self._metadata.get(f"tokenizer.ggml.{key}", default)
        return value if isinstance(value, bool) else self.fail(key, f"expected a boolean, got {value!r:.60}")

    def token_at(self, key: str) -> str | None:
        """The token that a metadata entry gives the id of, or None."""
        value = self._metadata.get(f"tokenizer.ggml.{key}")
        if value is None:
            return None
        ids = as_tuple(value.tolist() if isinstance(value, np.ndarray) else value)
        if not ids or type(ids[0]) is not int or not 0 <= ids[0] < len(self.tokens):
            self.fail(key, f"expected a token id below {len(self.tokens)}, got {value!r:.60}")
        return self.tokens[ids[0]]

    @property
    def pre(self) -> str:
        """The name of the rule that splits text before merging."""
        pre = self._metadata.get("tokenizer.ggml.pre", "default")
        if not isinstance(pre, str) or pre not in _PRES:
            raise UnsupportedModelError(
                f"unsupported pre-tokenizer {pre!r:.60}", where=self.where, why=f"supported are {', '.join(_PRES)}"
            )
        return pre

    def merges(self) -> list[tuple[str, str]]:
        """Pairs, best first; whether they are of tokens, and join to one, is not looked at."""
        merges: list[tuple[str, str]] = []
        for merge in self._texts("merges"):
            left, space, right = merge.partition(" ")
            if not space:
                self.fail("merges", f"merge {merge!r:.100} is not two tokens")
            merges.append((left, right))
        return merges

    def merges_of_scores(self) -> list[tuple[str, str]]:
        """SentencePiece's order as merges: the pair that joins to the best score goes first."""
        scores = self._numbers("scores")
        ranked = []
        for token, token_id in self.ids.items():
            if self.types[token_id] in (_UNKNOWN, _CONTROL, _UNUSED, _BYTE):
                continue
            for cut in range(1, len(token)):
                left, right = self.ids.get(token[:cut]), self.ids.get(token[cut:])
                if left is not None and right is not None:
                    ranked.append((-scores[token_id], left, right))
        ranked.sort()
        return [(self.tokens[left], self.tokens[right]) for _, left, right in ranked]

    def _texts(self, key: str) -> list[str]:
        value = self._metadata.get(f"tokenizer.ggml.{key}")
        if not isinstance(value, list) or not set(map(type, value)) <= {str}:
            self.fail(key, "expected an array of strings")
        return value

    def _numbers(self, key: str, default: float | None = None) -> list[Any]:
        """One finite number for each token."""
        value = self._metadata.get(f"tokenizer.ggml.{key}")
        if value is None and default is not None:
            return [default] * len(self.tokens)
        if not isinstance(value, np.ndarray) or len(value) != len(self.tokens) or not np.isfinite(value).all():
            got = f"{len(value)} values" if isinstance(value, np.ndarray) else type(value).__name__
            self.fail(key, f"expected {len(self.tokens)} finite numbers, one a token, got {got}")
        return list(value.tolist())


def _byte_level(vocabulary: _Vocabulary) -> Tokenizer:
    pre, merges = vocabulary.pre, vocabulary.merges()
    try:
        model = models.BPE(vocabulary.ids, merges, ignore_merges=pre == "llama-bpe")
    except Exception as error:  # the library's for a merge of what is no token, or to what is none
        vocabulary.fail("merges", str(error), error)
    inner = Tokenizer(model)
    inner.pre_tokenizer = _words(pre)
    inner.decoder = decoders.ByteLevel()
    if pre == "qwen2":
        inner.normalizer = normalizers.NFC()
    return inner


def _words(pre: str) -> pre_tokenizers.PreTokenizer:
    if pre in ("qwen2", "llama-bpe"):
        words = Regex(_QWEN2_WORDS if pre == "qwen2" else _LLAMA3_WORDS)
        split = pre_tokenizers.Split(words, "isolated")
        return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if pre == "smollm":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    return byte_level


def _sentence_piece(vocabulary: _Vocabulary) -> Tokenizer:
    """SentencePiece BPE: spaces are U+2581, unknown characters fall back to bytes."""
    unknown = vocabulary.token_at("unknown_token_id") or next(
        (token for token, kind in zip(vocabulary.tokens, vocabulary.types, strict=True) if kind == _UNKNOWN), None
    )
    merges = vocabulary.merges_of_scores()
    inner = Tokenizer(models.BPE(vocabulary.ids, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    prefix = vocabulary.flag("add_space_prefix", True)
    spaces = normalizers.Replace(" ", "▁")
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if prefix else spaces
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    inner.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)
    return inner


def _framed(inner: Tokenizer, prefix: list[str], suffix: list[str]) -> processors.TemplateProcessing:
    """Puts special tokens around every encoded text."""
    names = {token: f"T{n}" for n, token in enumerate(dict.fromkeys([*prefix, *suffix]))}  # a template splits at spaces
    single = [names[t] for t in prefix] + ["$A"] + [names[t] for t in suffix]
    special = [{"id": name, "ids": [inner.token_to_id(t)], "tokens": [t]} for t, name in names.items()]
    return processors.TemplateProcessing(single=" ".join(single), special_tokens=special)
