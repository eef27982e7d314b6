"""The comparison for people: speeds by engine and cell, then ours against the best peer that counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def as_text(document: dict[str, Any]) -> str:
    lines: list[str] = []
    for name, model in document["models"].items():
        lines += [f"{name}, {document['threads']} threads, medians of {document['rounds']} rounds", ""]
        lines += [*_speeds(model), "", *_ratios(model), ""]
    for name, top in document.get("roof", {}).items():
        if isinstance(top, dict):
            facts = f"reads {top['read_gb_per_s']:g} GB/s, float32 {top['float32_gflop_per_s']:g} GFLOP/s"
            int8 = f"int8 {top['int8_gop_per_s']:g} GOP/s ({document['roof']['int8_isa']})"
            lines.append(f"roof, {name} thread{'s' * (name != '1')}: {facts}, {int8}")
    if check := document.get("cross_check"):
        lines.append(
            f"decode by the clock outside: {check['outside_tokens_per_s']:.1f} tokens/s, claimed "
            f"{check['claimed_tokens_per_s']:.1f}: {'agrees' if check['agrees'] else 'DOES NOT AGREE'}"
        )
    for engine, start in document.get("start", {}).items():
        lines.append(f"start of {engine}: first token {start['first_token_s']:.2f} s, {start['peak_rss_mib']:.0f} MiB")
    return "\n".join(lines) + "\n"


def _speeds(model: dict[str, Any]) -> list[str]:
    cells = list(dict.fromkeys(cell for engine in model["engines"] for cell in engine["speeds"]))
    rows = [["", *cells, "KL", "|dlogp|", "top-1"]]
    for engine in model["engines"]:
        speeds = [f"{engine['speeds'][cell]:.1f}" if cell in engine["speeds"] else "-" for cell in cells]
        means = engine["quality_mean"] or {}
        figures = [
            "-" if means.get(name) is None else f"{means[name]:.4f}"
            for name in ("kl", "logprob_difference", "top1_agreement")
        ]
        rows.append([engine["label"] + ("" if engine["counts"] else " (does not count)"), *speeds, *figures])
    failed = [f"{engine['label']}: {engine['error']}" for engine in model["engines"] if engine["error"]]
    return [*columns(rows), *failed]


def _ratios(model: dict[str, Any]) -> list[str]:
    rows = [["cell", "ours", "speed", "best peer", "its speed", "ratio", "of the roof"]]
    for found in model["ratios"]:
        share = model["roof_shares"].get(found["ours"], {}).get(found["cell"])
        rows.append(
            [
                found["cell"],
                found["ours"],
                f"{found['speed']:.1f}",
                found["peer"],
                f"{found['peer_speed']:.1f}",
                f"{found['ratio']:.2f}",
                "" if share is None else f"{share:.0%}",
            ]
        )
    return columns(rows)


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligned; the first column to the left, the rest to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
