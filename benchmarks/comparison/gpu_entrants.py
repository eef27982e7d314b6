"""Who takes part on a GPU: its roof, rtp, and transformers in every way that may be its fastest."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from comparison.cells import Cell
from comparison.entrants import FOLDER, RTP, TRANSFORMERS, Entrant, Ours, Script, is_there, label
from comparison.gpu_targets import COMPILED, ROOF
from comparison.process import run_json
from comparison.turns import Speeds

DTYPE = "bfloat16"
TORCH_NAMES = {"cuda": "cuda", "rocm": "cuda", "cpu": "cpu"}  # by kind of rtp's device; ROCm's torch says cuda


def runs(
    folder: Path, cells: Sequence[Cell], device: str, transformers: str | None, repeats: int
) -> dict[str, Callable[[], Speeds]]:
    """What a round has, by label. `transformers`: an interpreter, None where it is not installed."""
    threads = len(os.sched_getaffinity(0))
    everyone = [ours(folder, device), *(peers(folder, device, transformers) if transformers else ())]
    engines = {label(entrant): partial(entrant.speeds, cells, threads, repeats) for entrant in everyone}
    return {f"{ROOF} torch": partial(_roof, device, repeats), **engines}


def ours(folder: Path, device: str) -> Entrant:
    return Ours(RTP, DTYPE, None, folder, ("--device", device, "--dtype", DTYPE))


def peers(folder: Path, device: str, interpreter: str) -> list[Entrant]:
    """Plain, with each attention that is there; and with a static cache and compiled decode steps."""
    ways = {way: ("--attention", way) for way in ("eager", "sdpa")}
    if is_there(interpreter, "flash_attn"):
        ways["flash"] = ("--attention", "flash_attention_2")
    ways[f"sdpa {COMPILED}"] = (*ways["sdpa"], "--compile")
    script = (interpreter, str(FOLDER / "run_transformers.py"), str(folder), "--dtype", DTYPE)
    on = ("--device", torch_name(device))
    return [Script(TRANSFORMERS, way, None, (*script, *on, *options)) for way, options in ways.items()]


def torch_name(device: str) -> str:
    """rtp's name of a device in torch's words."""
    kind, _, index = device.partition(":")
    return f"{TORCH_NAMES[kind]}:{index or 0}"


def _roof(device: str, repeats: int) -> Speeds:
    script = str(FOLDER / "gpu_roof.py")
    found = run_json([sys.executable, script, "--device", torch_name(device), "--repeats", str(repeats)])
    return dict(found["speeds"])
