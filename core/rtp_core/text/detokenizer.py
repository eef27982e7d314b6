"""IncrementalDetokenizer: token ids in, one at a time; text out that later ids cannot change.

The pieces joined are what decoding all ids at once gives, and the work per token does not grow with the text.
"""

from __future__ import annotations

from codecs import utf_8_decode

from rtp_core.text.tokenizer import Tokenizer


class IncrementalDetokenizer:
    """For one text. `skip_special` leaves special tokens out, as in `Tokenizer.decode`."""

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = True) -> None:
        self._tokenizer, self._skip_special = tokenizer, skip_special
        self._half = b""  # of a character
        # For vocabularies of texts: `_context` is what was decoded last and already emitted. It is the left
        # neighbour that a decoder needs to know, to treat `_pending` as the middle of a text and not its start.
        self._context: list[int] = []
        self._context_text = ""
        self._pending: list[int] = []

    def feed(self, token_id: int) -> str:
        """The text that became certain with this token; empty while a character is incomplete."""
        tokenizer = self._tokenizer
        if self._skip_special and token_id in tokenizer.special_ids:
            return ""
        if tokenizer.is_byte_level:
            spelling = tokenizer.spelling(token_id)
            return self._characters(spelling.utf8) if self._half or spelling.text is None else spelling.text
        if tokenizer.id_to_token(token_id) is None:
            return ""
        self._pending.append(token_id)
        # A run of byte tokens is decoded as a whole, valid or not: nothing of it is certain before it ends.
        return "" if tokenizer.is_byte_fallback(token_id) else self._decode_pending()

    def flush(self) -> str:
        """The rest at the end of the text; bytes of an incomplete character become U+FFFD."""
        if self._tokenizer.is_byte_level:
            return self._characters(b"", is_last=True)
        return self._decode_pending()

    def _characters(self, more: bytes, *, is_last: bool = False) -> str:
        """Those that are whole; what begins another waits for its rest, or becomes U+FFFD."""
        known = self._half + more
        text, used = utf_8_decode(known, "replace", is_last)
        self._half = known[used:]
        return text

    def _decode_pending(self) -> str:
        window = self._context + self._pending
        text = self._decode(window)
        piece = text[len(self._context_text) :]
        # Decoders drop a leading space: only tokens that leave some text of their own may stand for the start.
        alone = self._decode(self._pending)
        if alone:
            self._context, self._context_text = self._pending, alone
        else:
            self._context, self._context_text = window, text
        self._pending = []
        return piece

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special=self._skip_special)
