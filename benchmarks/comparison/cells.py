"""The cells of the comparison: one speed each, defined the same way for every engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

Kind = Literal["prefill", "decode", "encode"]


@dataclass(frozen=True, slots=True)
class Cell:
    """`batch` prompts of `prompt` random tokens, `output` greedy tokens after each; larger values are better.

    prefill: batch x prompt / time to first token. decode: batch x (output - 1) / the time after it. Both in tokens
    per second. encode: sequences per second.
    """

    name: str
    kind: Kind
    batch: int
    prompt: int
    output: int = 1

    def document(self) -> dict[str, Any]:
        return asdict(self)


LLM_CELLS = (
    Cell("prefill-512", "prefill", 1, 512),
    *(Cell(f"decode-b{batch}", "decode", batch, 8, 65) for batch in (1, 4, 16, 64)),
    Cell("prefill-4096", "prefill", 1, 4096, 33),
    Cell("decode-b1-at-4096", "decode", 1, 4096, 33),
)
GPU_CELLS = (
    Cell("prefill-2048", "prefill", 1, 2048),
    *(cell for cell in LLM_CELLS if cell.name in ("decode-b1", "decode-b64")),
)
ENCODER_CELLS = tuple(Cell(f"bert-{b}x{t}", "encode", b, t) for b, t in ((1, 16), (1, 128), (32, 64), (32, 256)))
CELLS = (*LLM_CELLS, *ENCODER_CELLS)
QUICK = ("prefill-512", "decode-b1", "decode-b4", "bert-1x16")


def chosen(patterns: Sequence[str]) -> tuple[Cell, ...]:
    """Cells by name; `*` stands for anything. Raises ValueError for a pattern that names none."""
    for pattern in patterns:
        if not any(fnmatchcase(cell.name, pattern) for cell in CELLS):
            raise ValueError(f"no cell {pattern!r}: there are {', '.join(cell.name for cell in CELLS)}")
    return tuple(cell for cell in CELLS if any(fnmatchcase(cell.name, pattern) for pattern in patterns))
