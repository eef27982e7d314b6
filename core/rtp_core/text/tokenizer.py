"""Tokenizer: text <-> token ids. Wraps the `tokenizers` library, which does the work."""

from __future__ import annotations

import json
import re
from codecs import utf_8_decode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers
import tokenizers.normalizers

from rtp_core.checkpoint.checkpoint import GgufTokenizer, TokenizerSource
from rtp_core.checkpoint.mapped_file import read_text
from rtp_core.errors import CheckpointError, ConfigError, UnsupportedModelError
from rtp_core.text.byte_alphabet import BYTE_OF_CHARACTER
from rtp_core.text.gguf_vocabulary import build_tokenizer

_MAX_TOKENIZER_JSON = 256 << 20  # bytes; the largest in use have some 35 MB

_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")

# Decoders whose text for a token does not depend on tokens far before it: what streaming rests on.
_DECODERS = ("ByteLevel", "ByteFallback", "Fuse", "Metaspace", "Replace", "Strip", "WordPiece")


@dataclass(frozen=True, slots=True)
class Cut:
    """Texts are cut to `max_tokens`, special tokens included, which stay; `lowers` them first."""

    max_tokens: int
    lowers: bool = False


class Spelling(NamedTuple):
    """A token as bytes, and as text unless it ends in the middle of a character."""

    utf8: bytes
    text: str | None

    @classmethod
    def of(cls, given: bytes) -> Spelling:
        text, used = utf_8_decode(given, "replace", False)
        return cls(given, text if used == len(given) else None)


class Tokenizer:
    """Encodes and decodes for one model. Immutable; safe to share between threads.

    `bos_token`, `eos_token` are texts, or None where the model has none; `eos_token_ids` end a text or a turn.
    `cut`: what becomes of a text before it is tokens, for a model that reads whole texts; None leaves it as it is.
    `vocab_size`: one more than the largest id; None has all tokens looked at for it.
    """

    def __init__(
        self,
        inner: tokenizers.Tokenizer,
        *,
        bos_token: str | None = None,
        eos_tokens: Iterable[str] = (),
        vocab_size: int | None = None,
        where: str = "",
        cut: Cut | None = None,
    ) -> None:
        self._inner = inner
        inner.no_truncation()  # whatever the file says
        inner.no_padding()
        if cut is not None:
            _apply(cut, inner, where)
        self.vocab_size = _vocab_size(inner) if vocab_size is None else vocab_size
        self.special_ids = frozenset(i for i, t in inner.get_added_tokens_decoder().items() if t.special)
        self.bos_token = bos_token
        self.bos_token_id = None if bos_token is None else inner.token_to_id(bos_token)
        known = {text: inner.token_to_id(text) for text in eos_tokens}
        self.eos_token = next(iter(known), None)
        self.eos_token_ids = tuple(token for token in known.values() if token is not None)
        self._decoders = _decoder_types(inner, where)
        self.is_byte_level = self._decoders == ["ByteLevel"]
        self._spellings: dict[int, Spelling] = {}

    @classmethod
    def from_source(cls, source: TokenizerSource, cut: Cut | None = None) -> Tokenizer:
        """The tokenizer of a checkpoint. Raises CheckpointError or UnsupportedModelError."""
        if isinstance(source, GgufTokenizer):
            return cls.from_gguf(source.metadata, source.path)
        return cls.from_file(source.tokenizer_json, source.config, cut)

    @classmethod
    def from_file(cls, path: Path, config: Mapping[str, Any] | None = None, cut: Cut | None = None) -> Tokenizer:
        """From a `tokenizer.json`; `config` is what tokenizer_config.json holds. Raises CheckpointError."""
        config = config or {}
        text = read_text(path, _MAX_TOKENIZER_JSON)
        try:
            inner = tokenizers.Tokenizer.from_str(text)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # the library's panics are not Exceptions
            raise CheckpointError("bad tokenizer", where=str(path), why=str(error)[:300]) from error
        eos = _token_text(config.get("eos_token"))
        return cls(
            inner,
            bos_token=_token_text(config.get("bos_token")),
            eos_tokens=() if eos is None else (eos,),
            where=str(path),
            cut=cut,
        )

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any], where: str | Path = "GGUF metadata") -> Tokenizer:
        """From a GGUF file's `tokenizer.ggml.*` metadata. Raises CheckpointError or UnsupportedModelError."""
        built = build_tokenizer(metadata, str(where))
        return cls(
            built.inner,
            bos_token=built.bos_token,
            eos_tokens=built.eos_tokens,
            vocab_size=built.vocab_size,
            where=str(where),
        )

    def encode(self, text: str, *, add_special: bool = True) -> list[int]:
        """Token ids. `add_special` follows the tokenizer's own rule for BOS; special tokens in `text` are known."""
        return list(self._inner.encode(_encodable(text), add_special_tokens=add_special).ids)

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """`encode` of each."""
        return [encoding.ids for encoding in self._inner.encode_batch_fast([_encodable(text) for text in texts])]

    def encode_chat(self, text: str) -> list[int]:
        """Token ids of a rendered chat template, which already holds all special tokens, BOS too."""
        return self.encode(text, add_special=False)

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """Text of `ids`; ids outside the vocabulary have none, broken UTF-8 becomes U+FFFD."""
        known = [token for token in ids if 0 <= token < self.vocab_size]
        return str(self._inner.decode(known, skip_special_tokens=skip_special))

    def id_to_token(self, token_id: int) -> str | None:
        """The vocabulary's own spelling of a token, or None outside it."""
        return self._inner.id_to_token(token_id)

    def token_to_id(self, token: str) -> int | None:
        return self._inner.token_to_id(token)

    def spelling(self, token_id: int) -> Spelling:
        """What a token of a byte-level vocabulary stands for; nothing outside the vocabulary."""
        known = self._spellings.get(token_id)
        if known is None:  # a table of all would take longer than a short answer
            known = self._spellings[token_id] = Spelling.of(self._bytes_of(token_id))
        return known

    def _bytes_of(self, token_id: int) -> bytes:
        token = self.id_to_token(token_id) if 0 <= token_id < self.vocab_size else None
        if token is None:
            return b""
        try:
            return bytes([BYTE_OF_CHARACTER[character] for character in token])
        except KeyError:  # an added token in plain text
            return token.encode()

    def is_byte_fallback(self, token_id: int) -> bool:
        """Whether a token stands for one byte of a character that the vocabulary lacks, as `<0xE2>` does."""
        token = self.id_to_token(token_id) if 0 <= token_id < self.vocab_size else None
        return token is not None and _BYTE_TOKEN.fullmatch(token) is not None


def _vocab_size(inner: tokenizers.Tokenizer) -> int:
    return max(inner.get_vocab(with_added_tokens=True).values(), default=-1) + 1


def _apply(cut: Cut, inner: tokenizers.Tokenizer, where: str) -> None:
    needed = inner.num_special_tokens_to_add(False)
    if cut.max_tokens <= needed:
        raise ConfigError(
            f"texts of at most {cut.max_tokens} tokens",
            where=where,
            why=f"{needed} of them are special tokens",
            hint=f"--max-model-len {needed + 1}, or more",
        )
    inner.enable_truncation(cut.max_tokens)
    if cut.lowers:
        lower = tokenizers.normalizers.Lowercase()
        inner.normalizer = (
            lower if inner.normalizer is None else tokenizers.normalizers.Sequence([lower, inner.normalizer])
        )


def _encodable(text: str) -> str:
    """`text` without lone surrogates, which no UTF-8 has; they become U+FFFD as in any lossy conversion."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _token_text(value: Any) -> str | None:
    """A token in tokenizer_config: its text, or an object with it."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) and value else None


def _decoder_types(inner: tokenizers.Tokenizer, where: str) -> list[str]:
    """The kinds of decoder in order. Raises UnsupportedModelError for one that streaming cannot follow."""
    if inner.decoder is None:
        raise UnsupportedModelError("a tokenizer without a decoder", where=where, why="token texts cannot be joined")
    state = json.loads(inner.decoder.__getstate__())
    parts = state["decoders"] if state["type"] == "Sequence" else [state]
    kinds = [part["type"] for part in parts]
    if not kinds or any(kind not in _DECODERS for kind in kinds) or ("ByteLevel" in kinds and len(kinds) > 1):
        raise UnsupportedModelError(
            f"unsupported decoder {'+'.join(kinds)}", where=where, why=f"supported are {', '.join(_DECODERS)}"
        )
    return kinds
