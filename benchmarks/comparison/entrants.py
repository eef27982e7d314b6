"""Who takes part with a model: rtp and every peer that is installed, each with its command."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from comparison import ours
from comparison.cells import Cell
from comparison.models import Model
from comparison.process import run, run_json
from comparison.ratios import IK_LLAMA_CPP, LLAMA_CPP

FOLDER = Path(__file__).parent
OPENVINO, TRANSFORMERS, RTP = "OpenVINO", "transformers", "rtp"


@dataclass(frozen=True, slots=True)
class Installed:
    """Where the peers are: interpreters and files, None where there is none."""

    llama_cpp: str | None
    openvino: str | None
    transformers: str | None
    ik_llama_bench: str | None
    openvino_folders: dict[str, Path]  # by model, exported in int8


class Entrant(Protocol):
    """An engine on one model in one format. `reference`: the GGUF file whose float32 is right; None without one."""

    name: str
    variant: str
    reference: Path | None

    def speeds(self, cells: Sequence[Cell], threads: int, repeats: int) -> dict[str, float]: ...

    def score(self, ids: Path, out: Path, threads: int) -> bool:
        """Write its logits [T, V] of every text as `out`/NAME.npy. False where it cannot."""
        ...


@dataclass(frozen=True, slots=True)
class Ours:
    name: str
    variant: str
    reference: Path | None
    model: Path
    options: tuple[str, ...] = ("--device", "cpu")

    def speeds(self, cells: Sequence[Cell], threads: int, repeats: int) -> dict[str, float]:
        return ours.speeds(self.model, cells, (*self.options, *_count("threads", threads)), repeats)

    def score(self, ids: Path, out: Path, threads: int) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class Script:
    """A peer that one of our scripts runs in an interpreter of its own."""

    name: str
    variant: str
    reference: Path | None
    command: tuple[str, ...]

    def speeds(self, cells: Sequence[Cell], threads: int, repeats: int) -> dict[str, float]:
        asked = json.dumps([cell.document() for cell in cells])
        document = run_json([*self.command, *_count("threads", threads), *_count("repeats", repeats), "--cells", asked])
        return dict(document["speeds"])

    def score(self, ids: Path, out: Path, threads: int) -> bool:
        run([*self.command, *_count("threads", threads), "--score", str(ids), str(out)])
        return True


@dataclass(frozen=True, slots=True)
class LlamaBench:
    """ik_llama.cpp's own benchmark: prefill, and decoding at batch 1."""

    name: str
    variant: str
    reference: Path | None
    program: str
    model: Path

    def speeds(self, cells: Sequence[Cell], threads: int, repeats: int) -> dict[str, float]:
        by_name = {cell.name: cell for cell in cells if cell.name in ("prefill-512", "decode-b1")}
        if not by_name:
            return {}
        sizes = ("-p", "512" if "prefill-512" in by_name else "0", "-n", "64" if "decode-b1" in by_name else "0")
        options = ("-m", str(self.model), "-t", str(threads), "-r", str(repeats), *sizes, "-o", "json")
        rows: list[dict[str, Any]] = json.loads(run([self.program, *options]).output)
        names = {True: "decode-b1", False: "prefill-512"}
        return {names[row["n_gen"] > 0]: float(row["avg_ts"]) for row in rows}

    def score(self, ids: Path, out: Path, threads: int) -> bool:
        return False


def label(entrant: Entrant) -> str:
    return f"{entrant.name} {entrant.variant}"


def _count(option: str, value: int) -> tuple[str, str]:
    return f"--{option}", str(value)


def is_there(interpreter: str, package: str) -> bool:
    """Whether an interpreter can import a package."""
    check = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is None)"
    try:
        return subprocess.run([interpreter, "-c", check], capture_output=True, timeout=60).returncode == 0
    except OSError:
        return False


def entrants(model: Model, installed: Installed) -> list[Entrant]:
    """rtp first."""
    if model.is_encoder:
        assert model.folder is not None
        mine: list[Entrant] = [Ours(RTP, "auto", None, model.folder)]
    else:
        mine = [Ours(RTP, kind, model.ggufs[kind], model.ggufs[kind]) for kind in model.ours]
    return [*mine, *_llama_cpp(model, installed), *_openvino(model, installed), *_transformers(model, installed)]


def _llama_cpp(model: Model, installed: Installed) -> Iterator[Entrant]:
    if installed.llama_cpp is not None:
        for kind, path in model.ggufs.items():
            command = (installed.llama_cpp, str(FOLDER / "run_llama_cpp.py"), str(path))
            yield Script(LLAMA_CPP, kind, path, command)
    if installed.ik_llama_bench is not None:
        for kind, path in model.ggufs.items():
            yield LlamaBench(IK_LLAMA_CPP, kind, path, installed.ik_llama_bench, path)


def _openvino(model: Model, installed: Installed) -> Iterator[Entrant]:
    if installed.openvino is None:
        return
    script = (installed.openvino, str(FOLDER / "run_openvino.py"))
    if model.name in installed.openvino_folders:
        # An exported folder is of the same weights before they were quantized: ours, dequantized, is the reference.
        reference = None if model.is_encoder else model.file
        yield Script(OPENVINO, "int8", reference, (*script, str(installed.openvino_folders[model.name])))
    if model.ggufs:
        kind, path = next(iter(model.ggufs.items()))
        yield Script(OPENVINO, f"GGUF {kind}", path, (*script, str(path)))


def _transformers(model: Model, installed: Installed) -> Iterator[Entrant]:
    if installed.transformers is None or model.folder is None:
        return
    reference = None if model.is_encoder else model.file
    for dtype in ("bfloat16", "float32"):
        command = (installed.transformers, str(FOLDER / "run_transformers.py"), str(model.folder), "--dtype", dtype)
        yield Script(TRANSFORMERS, dtype, reference, command)
