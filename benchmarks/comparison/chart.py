"""The comparison as an SVG: for every cell a group of bars, as a share of the best peer that counts."""

from __future__ import annotations

from typing import Any
from xml.sax.saxutils import escape

BAR, GAP, GROUP, LEFT, WIDTH = 14, 3, 22, 150, 420  # pixels
TITLE, FONT = 28, 'font-family="system-ui, sans-serif" font-size="12"'
OURS, PEERS = "#2f6fde", ("#9aa5b1", "#b8c0c8", "#7b8794", "#cbd2d9", "#616e7c")


def as_svg(document: dict[str, Any]) -> str:
    """Bars of the engines that count. Longer is faster; the line is the best peer."""
    parts: list[str] = []
    y = 12
    largest = max([1.0, *(r["ratio"] for model in document["models"].values() for r in model["ratios"])])
    unit = WIDTH / largest
    for name, model in document["models"].items():
        parts.append(_text(8, y + 14, f"{name}: times the best peer", 'font-weight="bold"'))
        y += TITLE
        for cell in dict.fromkeys(found["cell"] for found in model["ratios"]):
            top = y
            best = next(found["peer_speed"] for found in model["ratios"] if found["cell"] == cell)
            parts.append(_text(8, y + BAR - 2, cell))
            for label, speed, is_ours in _bars(model, cell):
                colour = OURS if is_ours else PEERS[_number(label) % len(PEERS)]
                length = speed / best * unit
                parts.append(f'<rect x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR}" fill="{colour}"/>')
                parts.append(_text(LEFT + length + 6, y + BAR - 2, f"{label}  {speed:.4g}"))
                y += BAR + GAP
            x = LEFT + unit
            parts.append(
                f'<line x1="{x:.1f}" y1="{top - 2}" x2="{x:.1f}" y2="{y}" stroke="#444" stroke-dasharray="3 2"/>'
            )
            y += GROUP - GAP
    width = LEFT + WIDTH + 260
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y}" viewBox="0 0 {width} {y}" {FONT}>'
    back = f'<rect width="{width}" height="{y}" fill="#ffffff"/>'
    return "\n".join([head, back, *parts, "</svg>"]) + "\n"


def _number(label: str) -> int:
    """The same in every run, unlike hash()."""
    return sum(map(ord, label))


def _bars(model: dict[str, Any], cell: str) -> list[tuple[str, float, bool]]:
    """Ours, then the peers that count, fastest first, with an assumed one where it is the best."""
    engines = [engine for engine in model["engines"] if cell in engine["speeds"]]
    mine = [(e["label"], e["speeds"][cell], True) for e in engines if e["is_ours"]]
    theirs = [(e["label"], e["speeds"][cell], False) for e in engines if not e["is_ours"] and e["counts"]]
    assumed = {(r["peer"], r["peer_speed"], False) for r in model["ratios"] if r["cell"] == cell and r["assumed"]}
    return mine + sorted([*theirs, *assumed], key=lambda bar: -bar[1])


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y}" fill="#222" {more}>{escape(text)}</text>'
