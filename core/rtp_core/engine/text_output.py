"""One request's tokens as text: detokenized, checked for stop strings, in pieces that are final."""

from __future__ import annotations

from collections.abc import Sequence

from rtp_core.text.detokenizer import IncrementalDetokenizer
from rtp_core.text.stop_strings import StopChecker
from rtp_core.text.tokenizer import Tokenizer


class TextOutput:
    """What it returns is safe to show: never half a character, never the beginning of a stop string."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        self._detokenizer = IncrementalDetokenizer(tokenizer)
        self._checker = StopChecker(stop)

    @property
    def is_stopped(self) -> bool:
        """A stop string has been completed; there is no more text."""
        return self._checker.stopped_by is not None

    def feed(self, token_id: int) -> str:
        return self._checker.feed(self._detokenizer.feed(token_id))

    def finish(self) -> str:
        """The rest, once the last token has been fed."""
        return self._checker.feed(self._detokenizer.flush()) + self._checker.flush()
