"""How much memory a device may have for everything: so many bytes, a share of what is free, or all but a reserve."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, Self

from rtp_core.errors import ConfigError

_UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_SIZE = r"(\d{1,18}(?:\.\d{1,9})?)\s*([KMGT]?)((?<=[KMGT])I?B|B|)"
_EXPECTED = "expected bytes above 0 (as 4GiB), a share of what is free (60%), or all but a reserve (all-2GiB)"


def parse_bytes(text: str) -> int:
    """`4GiB`, `512M`, `1.5GB` or plain bytes as a number of bytes; K, M, G, T alone are powers of 1024.

    Raises ConfigError.
    """
    match = re.fullmatch(_SIZE, text.strip().upper())
    if match is None:
        raise ConfigError(f"bad size {text!r}", why="expected bytes, or a number with KiB, MiB, GiB or TiB")
    number, unit, suffix = match.groups()
    return int(float(number) * (1000 if unit and suffix == "B" else 1024) ** _UNITS[unit])


def format_bytes(nbytes: float) -> str:
    """As people read it: `84.7 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(nbytes) < 1024:
            return f"{nbytes:.0f} B" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1024
    return f"{nbytes:.1f} TiB"


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """`amount`: bytes, or a share above 0 and up to 1, or the bytes to leave to others."""

    kind: Literal["bytes", "share", "reserve"]
    amount: float

    @classmethod
    def parse(cls, given: int | float | str) -> Self:
        """An int is bytes, a float a share; text is `4GiB`, `60%` or `all-2GiB`. Raises ConfigError for nonsense."""
        found: Self | None = None
        if isinstance(given, str):
            found = cls._of_text(given.strip())
        elif isinstance(given, int) and not isinstance(given, bool) and given > 0:
            found = cls("bytes", given)
        elif isinstance(given, float) and 0 < given <= 1:
            found = cls("share", given)
        if found is None:
            raise ConfigError(f"memory_budget is {given!r}", why=_EXPECTED)
        return found

    @classmethod
    def _of_text(cls, text: str) -> Self | None:
        share = re.fullmatch(r"(\d{1,3}(?:\.\d{1,9})?)\s*%", text)
        if share is not None:
            return cls("share", float(share[1]) / 100) if 0 < float(share[1]) <= 100 else None
        reserve = re.fullmatch(r"all\s*-\s*(.+)", text, re.IGNORECASE)
        if not re.fullmatch(_SIZE, (text if reserve is None else reserve[1]).upper()):
            return None
        nbytes = parse_bytes(text if reserve is None else reserve[1])
        if reserve is not None:
            return cls("reserve", nbytes)
        return cls("bytes", nbytes) if nbytes > 0 else None

    def of(self, free_bytes: int) -> int:
        """Bytes, where so many are free. Raises ConfigError where nothing would be left."""
        if self.kind == "bytes":
            return int(self.amount)
        nbytes = int(free_bytes * self.amount if self.kind == "share" else free_bytes - self.amount)
        if nbytes <= 0:
            raise ConfigError(
                f"memory_budget leaves {nbytes} bytes",
                why=f"{format_bytes(free_bytes)} are free",
                hint="give a smaller reserve",
            )
        return nbytes
