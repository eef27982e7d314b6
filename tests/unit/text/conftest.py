"""Small tokenizers of both families, and the default model's."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer as Inner, decoders, models, normalizers, pre_tokenizers

from rtp_core.checkpoint.opening import open_checkpoint
from rtp_core.text.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def default_tokenizer(default_model_path: Path) -> Tokenizer:
    source = open_checkpoint(default_model_path).tokenizer
    assert source is not None
    return Tokenizer.from_source(source)


def _add_tokens(inner: Inner) -> None:
    inner.add_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    inner.add_tokens([AddedToken("plain added é", special=False, normalized=False)])


@pytest.fixture(scope="session")
def byte_level_tokenizer() -> Tokenizer:
    """Every byte, a few merges, special tokens, and an added token outside the byte alphabet."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ã", "©"), ("Ġ", "a"), ("b", "c"), ("ð", "Ł"), ("Ġa", "bc")]
    texts = [*alphabet, *("".join(pair) for pair in merges)]
    inner = Inner(models.BPE({text: n for n, text in enumerate(texts)}, merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    inner.decoder = decoders.ByteLevel()
    _add_tokens(inner)
    return Tokenizer(inner, bos_token="<s>", eos_tokens=["</s>"])


@pytest.fixture(scope="session")
def byte_fallback_tokenizer() -> Tokenizer:
    """Pieces with U+2581 for spaces and a token for every byte, as SentencePiece models have."""
    pieces = [
        "<unk>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        "a",
        "b",
        "▁a",
        "ab",
        "é",
        "�",
        "▁▁",
        "x<0x41>",
    ]
    merges = [("▁", "a"), ("a", "b"), ("▁", "▁")]
    vocabulary = {piece: n for n, piece in enumerate(pieces)}
    inner = Inner(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    inner.decoder = decoders.Sequence(steps)
    _add_tokens(inner)
    return Tokenizer(inner, bos_token="<s>", eos_tokens=["</s>"])


@pytest.fixture(scope="session")
def metaspace_tokenizer() -> Tokenizer:
    """Pieces whose spaces the Metaspace decoder restores."""
    inner = Inner(models.BPE({"▁": 0, "a": 1, "▁a": 2, "b": 3, "▁b": 4, "▁▁": 5}, []))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    _add_tokens(inner)
    return Tokenizer(inner, bos_token="<s>", eos_tokens=["</s>"])
