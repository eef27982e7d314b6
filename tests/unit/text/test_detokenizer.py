"""Pieces joined are the whole text, and no piece is ever taken back."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from rtp_core.text.detokenizer import IncrementalDetokenizer
from rtp_core.text.tokenizer import Tokenizer

KINDS = ["byte_level_tokenizer", "byte_fallback_tokenizer", "metaspace_tokenizer", "default_tokenizer"]
TEXTS = st.text(max_size=40) | st.text(alphabet=" ab▁é😀世\n�\u0301", max_size=40)


@pytest.fixture(params=KINDS, ids=lambda kind: kind.removesuffix("_tokenizer"))
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    made = request.getfixturevalue(request.param)
    assert isinstance(made, Tokenizer)
    return made


def pieces_of(tokenizer: Tokenizer, ids: list[int], skip_special: bool) -> list[str]:
    detokenizer = IncrementalDetokenizer(tokenizer, skip_special=skip_special)
    return [*(detokenizer.feed(token) for token in ids), detokenizer.flush()]


@settings(
    deadline=None, max_examples=300, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), skip_special=st.booleans())
def test_random_ids_in_pieces_are_what_decoding_them_at_once_gives(
    tokenizer: Tokenizer, data: st.DataObject, skip_special: bool
) -> None:
    some = st.integers(0, tokenizer.vocab_size + 2)  # ids just past the vocabulary too
    few = st.sampled_from(
        sorted({0, 1, 2, 3, 195, 227, 257, 258, 261, tokenizer.vocab_size - 1, tokenizer.vocab_size - 3})
    )
    ids = data.draw(st.lists(some | few, max_size=40))
    assert "".join(pieces_of(tokenizer, ids, skip_special)) == tokenizer.decode(ids, skip_special=skip_special)


@settings(
    deadline=None, max_examples=200, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=TEXTS)
def test_random_text_in_pieces_is_what_decoding_it_at_once_gives(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert "".join(pieces_of(tokenizer, ids, True)) == tokenizer.decode(ids)


@pytest.mark.parametrize("kind", ["byte_level_tokenizer", "byte_fallback_tokenizer"])
def test_half_a_character_is_held_back(kind: str, request: pytest.FixtureRequest) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(kind)
    ids = tokenizer.encode("世😀b", add_special=False)
    assert len(ids) > 3
    pieces = pieces_of(tokenizer, ids, True)
    assert "�" not in "".join(pieces)
    assert "" in pieces[:-1]
    assert "".join(pieces) == "世😀b"


def test_a_character_is_emitted_with_its_last_byte(byte_level_tokenizer: Tokenizer) -> None:
    ids = byte_level_tokenizer.encode("世界")
    assert pieces_of(byte_level_tokenizer, ids, True) == ["", "", "世", "", "", "界", ""]


@pytest.mark.parametrize("kind", ["byte_level_tokenizer", "byte_fallback_tokenizer"])
def test_an_incomplete_tail_becomes_replacement_characters_at_the_end(
    kind: str, request: pytest.FixtureRequest
) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(kind)
    ids = tokenizer.encode("a世")[:-1]
    pieces = pieces_of(tokenizer, ids, True)
    assert pieces[-1].strip("�") == "" and pieces[-1]
    assert "".join(pieces) == tokenizer.decode(ids)


def test_a_flushed_detokenizer_has_nothing_left(tokenizer: Tokenizer) -> None:
    detokenizer = IncrementalDetokenizer(tokenizer)
    for token in tokenizer.encode("a世")[:-1]:
        detokenizer.feed(token)
    detokenizer.flush()
    assert detokenizer.flush() == ""


def test_special_tokens_are_silent_unless_asked_for(byte_level_tokenizer: Tokenizer) -> None:
    ids = byte_level_tokenizer.encode("a<s>b</s>")
    assert "".join(pieces_of(byte_level_tokenizer, ids, True)) == "ab"
    assert "".join(pieces_of(byte_level_tokenizer, ids, False)) == "a<s>b</s>"


def test_the_work_for_a_token_does_not_grow_with_the_text(
    byte_fallback_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    real = Tokenizer.decode

    def counting(self: Tokenizer, ids: list[int], *, skip_special: bool = True) -> str:
        decoded.append(len(ids))
        return real(self, ids, skip_special=skip_special)

    ids = byte_fallback_tokenizer.encode("ab a世" * 200)
    monkeypatch.setattr(Tokenizer, "decode", counting)
    pieces_of(byte_fallback_tokenizer, ids, True)
    assert max(decoded) <= 12
    assert sum(decoded) <= 6 * len(ids)
