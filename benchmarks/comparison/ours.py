"""rtp as a user runs it: `rtp bench`, `rtp eval` and `rtp generate` in processes of their own."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

from comparison.cells import Cell
from comparison.process import run, run_json

MIN_ROUNDS = 3  # of `rtp bench`
RTP = (sys.executable, "-m", "rtp_core.cli")


def speeds(model: Path, cells: Sequence[Cell], options: Sequence[str], rounds: int) -> dict[str, float]:
    """By cell. Cells of the same prompts and outputs share a process, which loads the model once.

    `options` of the engine name at least its device.
    """
    common = ("--model", str(model), *options, "--json")
    rounds_option = ("--rounds", str(max(rounds, MIN_ROUNDS)))
    found: dict[str, float] = {}
    for key, group in groupby(sorted(cells, key=_shared), key=_shared):
        same = list(group)
        batches = [word for batch in dict.fromkeys(c.batch for c in same) for word in ("--batch", str(batch))]
        _, prompt, output = key
        if same[0].kind == "encode":
            document = run_json([*RTP, "bench", "embed", *common, "--tokens", str(prompt), *batches])
        else:
            sizes = ("--prompt-tokens", str(prompt), "--output-tokens", str(output))
            document = run_json([*RTP, "bench", "latency", *common, *sizes, *rounds_option, *batches])
        rows = {row["batch"]: row for row in document["rows"]}
        found |= {cell.name: _speed(cell, rows[cell.batch]) for cell in same}
    return found


def _shared(cell: Cell) -> tuple[bool, int, int]:
    return cell.kind == "encode", cell.prompt, cell.output


def _speed(cell: Cell, row: dict[str, Any]) -> float:
    keys = {"prefill": "prefill_tokens_per_s", "decode": "decode_tokens_per_s", "encode": "sequences_per_s"}
    return float(row[keys[cell.kind]])


def quality(model: Path, text: Path, threads: int) -> dict[str, float]:
    """kl, logprob_difference and top1_agreement of `auto` against float32 on the same file."""
    options = ("--model", str(model), "--device", "cpu", "--threads", str(threads), "--max-model-len", "2048")
    found = run_json([*RTP, "eval", "perplexity", *options, "--text", str(text), "--reference", "float32", "--json"])
    return {name: found[name] for name in ("kl", "logprob_difference", "top1_agreement")}


def first_token(model: Path, threads: int) -> list[str]:
    """The command whose first byte of output is its first token."""
    options = ("--model", str(model), "--device", "cpu", "--threads", str(threads), "--temperature", "0")
    return [*RTP, "generate", "Once upon a time", "--raw", "--max-tokens", "8", *options]


def cross_check(model: Path, threads: int, pairs: int = 2, tolerance: float = 0.15) -> dict[str, Any]:
    """The speed of decoding at batch 1 by the clock outside: two processes that differ in their output tokens alone.

    The difference of their wall times over the difference of tokens must be what `rtp bench` claims. `agrees`: within
    `tolerance`, for a machine that others use.
    """
    few, many = 8, 136
    common = (*RTP, "bench", "latency", "--model", str(model), "--device", "cpu", "--threads", str(threads), "--json")
    outside, claimed = [], []
    for _ in range(pairs):
        walls = {}
        for output in (few, many):
            command = [*common, "--prompt-tokens", "8", "--rounds", str(MIN_ROUNDS), "--output-tokens", str(output)]
            walls[output] = run(command)
        seconds = walls[many].wall_s - walls[few].wall_s
        outside.append((MIN_ROUNDS + 1) * (many - few) / seconds)  # one more round warms up
        claimed.append(_claimed(walls[many].output))
    ratio = median(claimed) / median(outside)
    return {
        "outside_tokens_per_s": median(outside),
        "claimed_tokens_per_s": median(claimed),
        "ratio": ratio,
        "tolerance": tolerance,
        "agrees": abs(ratio - 1) <= tolerance,
    }


def _claimed(output: str) -> float:
    return float(json.loads(output)["rows"][0]["decode_tokens_per_s"])
