"""StopChecker against a reading of one character at a time."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from rtp_core.errors import ConfigError
from rtp_core.text.stop_strings import StopChecker


def expected(text: str, stop: list[str]) -> tuple[str, str | None]:
    for end in range(1, len(text) + 1):
        ending = [s for s in stop if text[:end].endswith(s)]
        if ending:
            longest = max(ending, key=len)
            return text[: end - len(longest)], longest
    return text, None


SHORT = st.text(alphabet="abc", min_size=1, max_size=4)


@settings(derandomize=True, max_examples=500)
@given(pieces=st.lists(st.text(alphabet="abc", max_size=5), max_size=10), stop=st.lists(SHORT, max_size=4))
def test_text_ends_before_the_stop_string_that_completes_first(pieces: list[str], stop: list[str]) -> None:
    checker = StopChecker(stop)
    emitted = ""
    whole, by = expected("".join(pieces), stop)
    for piece in pieces:
        emitted += checker.feed(piece)
        assert whole.startswith(emitted)
    emitted += checker.flush()
    assert (emitted, checker.stopped_by) == (whole, by)


@settings(derandomize=True, max_examples=500)
@given(pieces=st.lists(st.text(alphabet="ab", max_size=4), max_size=10), stop=st.lists(SHORT, max_size=4))
def test_what_is_held_back_is_the_longest_end_that_begins_a_stop_string(pieces: list[str], stop: list[str]) -> None:
    checker = StopChecker(stop)
    text = emitted = ""
    for piece in pieces:
        text += piece
        emitted += checker.feed(piece)
        whole, by = expected(text, stop)
        if by is not None:
            assert (emitted, checker.stopped_by) == (whole, by)
            return
        ends = [text[i:] for i in range(len(text) + 1)]
        held = next(end for end in ends if not end or any(s.startswith(end) for s in stop))
        assert emitted + held == text


def test_only_the_possible_start_of_a_stop_string_is_held_back() -> None:
    checker = StopChecker(["</answer>"])
    assert checker.feed("yes </") == "yes "
    assert checker.feed("b> no </ans") == "</b> no "
    assert checker.feed("wer> more") == ""
    assert checker.stopped_by == "</answer>"
    assert checker.feed("more") == checker.flush() == ""


def test_without_stop_strings_all_text_passes_at_once() -> None:
    checker = StopChecker([])
    assert checker.feed("abc") == "abc"
    assert checker.flush() == ""


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ConfigError, match="empty"):
        StopChecker(["a", ""])
