"""A GPU's figures for people: speeds by engine and cell, the roof, then targets and whether they are met."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comparison.gpu_targets import ROOF
from comparison.table import columns


def as_text(document: dict[str, Any]) -> str:
    lines = [f"{document['device']}, {document['gpu']}: medians of {document['rounds']} rounds, bfloat16", ""]
    for name, model in document["models"].items():
        lines += [f"{name}, tokens/s", *_speeds(model["engines"]), *_roof(model["engines"]), _work(model["work"]), ""]
        lines += [f"{engine['label']}: {engine['error']}" for engine in model["engines"] if engine["error"]]
    return "\n".join([*lines, *_targets(document["targets"])]) + "\n"


def _speeds(engines: list[dict[str, Any]]) -> list[str]:
    shown = [engine for engine in engines if engine["name"] != ROOF]
    cells = list(dict.fromkeys(cell for engine in shown for cell in engine["speeds"]))
    rows = [[e["label"], *(f"{e['speeds'][c]:.1f}" if c in e["speeds"] else "-" for c in cells)] for e in shown]
    return columns([["", *cells], *rows])


def _roof(engines: list[dict[str, Any]]) -> list[str]:
    return [
        f"roof: copies {e['speeds']['copy-gb-per-s']:.0f} GB/s (read and written), bf16 products "
        f"{e['speeds']['matmul-tflop-per-s']:.1f} TFLOP/s"
        for e in engines
        if e["name"] == ROOF and e["speeds"]
    ]


def _work(work: Mapping[str, int]) -> str:
    return (
        f"a decode step reads {work['decode_bytes'] / 1e9:.2f} GB of weights; {work['prefill_tokens']} tokens take "
        f"{work['prefill_linear_flop'] / 1e12:.2f} TFLOP in linear layers and, not counted, "
        f"{work['prefill_attention_flop'] / 1e12:.2f} in attention"
    )


def _targets(targets: list[dict[str, Any]]) -> list[str]:
    rows = [["target", "of", "needed", "measured", ""]]
    for found in targets:
        value = "-" if found["value"] is None else f"{found['value']:.2f}"
        said = {True: "met", False: "NOT MET", None: f"not measured: {found['why']}"}[found["is_met"]]
        rows.append([f"{found['model']} {found['cell']}", found["of"], f"{found['needed']:.2f}", value, said])
    return columns(rows)
