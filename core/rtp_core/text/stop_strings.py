"""StopChecker: ends a text before its first stop string, however the text is cut into pieces."""

from __future__ import annotations

from collections.abc import Iterable

from rtp_core.errors import ConfigError


class StopChecker:
    """For one text. Holds back what could be the beginning of a stop string.

    The stop string that completes first wins, and of those that complete together the longest: so where
    the pieces were cut makes no difference.
    """

    def __init__(self, stop: Iterable[str]) -> None:
        self._stop = tuple(dict.fromkeys(stop))
        if "" in self._stop:
            raise ConfigError("bad stop string", why="an empty one is everywhere")
        self._firsts = frozenset(s[0] for s in self._stop)
        self._starts = frozenset(s[:n] for s in self._stop for n in range(1, len(s)))
        self._longest_start = max(map(len, self._starts), default=0)
        self._held = ""
        self.stopped_by: str | None = None

    def feed(self, piece: str) -> str:
        """The text that is safe to emit. Once `stopped_by` is set there is no more."""
        if not self._stop:
            return piece
        if self.stopped_by is not None:
            return ""
        if not self._held and self._firsts.isdisjoint(piece):  # nothing of a stop string begins here
            return piece
        text = self._held + piece
        found = [(text.find(s) + len(s), -len(s), s) for s in self._stop if s in text]
        if found:
            end, _, self.stopped_by = min(found)
            self._held = ""
            return text[: end - len(self.stopped_by)]
        keep = self._possible_start(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """What was held back, at the end of a text that was not stopped."""
        text, self._held = self._held, ""
        return text

    def _possible_start(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        for n in range(min(len(text), self._longest_start), 0, -1):
            if text[-n:] in self._starts:
                return n
        return 0
