"""The alphabet of byte-level vocabularies: one printable character for each byte.

Source: GPT-2's encoder, as every byte-level BPE since: printable Latin-1 stands for itself, the other
bytes for the characters from U+0100 on, in order.
"""

from __future__ import annotations

_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]

BYTE_OF_CHARACTER = {chr(byte): byte for byte in _PRINTABLE} | {chr(256 + n): byte for n, byte in enumerate(_OTHERS)}
