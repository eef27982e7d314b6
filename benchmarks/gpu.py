"""rtp and transformers on this machine's GPU, in turn: speeds, the GPU's roof, and which targets are met.

    python benchmarks/gpu.py [--device cuda:0] [--quick] [--json FILE]

Random weights in the shapes of Qwen2-0.5B and Qwen2-7B, written once, all in bfloat16. Every engine runs in a process
of its own; a round has each of them once. The targets are in `comparison/gpu_targets.py`. Where there is no GPU it says
why and ends; a model that does not fit is left out, with what is missing. Exits with 1 where rtp or the roof failed,
not where a target is not met. `--device cpu` tries the benchmark itself.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import platformdirs
from comparison import gpu_table
from comparison.cells import GPU_CELLS, Cell
from comparison.entrants import RTP, is_there
from comparison.gpu_entrants import TORCH_NAMES, runs
from comparison.gpu_room import disk_free, lacking
from comparison.gpu_targets import ROOF, MeasuredModel, judged
from comparison.gpu_work import GpuWork, gpu_work
from comparison.models import is_written, random_folder
from comparison.random_qwen2 import QWEN2_0_5B, QWEN2_7B, Shape, Vocabulary, write_folder
from comparison.ratios import medians
from comparison.turns import in_turn

from rtp_core.cli.machine import machine, versions
from rtp_core.device.loader import State, load_plugins
from rtp_core.device.manifest import DeviceInfo

RESULTS = Path(__file__).parent / "results"
LIBRARIES = ("rtp-core", "rtp-torch", "rtp-cuda", "rtp-rocm", "torch", "triton", "transformers", "flash-attn")
PREFILL_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class Subject:
    """A model, and the cells that it is measured by."""

    name: str
    shape: Shape
    cells: tuple[Cell, ...]


SMALL = Subject("qwen2-0.5b", QWEN2_0_5B, tuple(cell for cell in GPU_CELLS if cell.name == "decode-b1"))
LARGE = Subject("qwen2-7b", QWEN2_7B, GPU_CELLS)


class NoGpu(Exception):
    """The hardware is cleanly absent; the message says why."""


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def find(device: str) -> DeviceInfo:
    """Raises NoGpu where there is none, ValueError where its plugin is at fault or no device has this index."""
    kind, _, index = device.partition(":")
    plugins = load_plugins(kind)
    if not plugins:
        raise ValueError(f"no plugin for {kind} is installed")
    told = "; ".join(f"{plugin.name} is {plugin.state}: {plugin.reason}" for plugin in plugins)
    if all(plugin.state is State.UNAVAILABLE for plugin in plugins):
        raise NoGpu(told)
    infos = {info.id: info for plugin in plugins if plugin.state is State.AVAILABLE for info in plugin.devices}
    wanted = f"{kind}:{index or 0}"
    if wanted not in infos:
        raise ValueError(f"no {wanted}: there are {', '.join(infos)}" if infos else told)
    return infos[wanted]


def measured(subject: Subject, work: GpuWork, folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """One model, which is written where it was not yet."""
    if not is_written(folder):
        say(f"{subject.name}: writing {work.file_bytes / 1e9:.1f} GB to {folder}")
        write_folder(folder, subject.shape, Vocabulary.of_bytes())
    taking_part = runs(folder, subject.cells, asked.device, asked.transformers, asked.repeats)
    rounds, errors = in_turn(taking_part, asked.rounds, lambda line: say(f"{subject.name}, {line}"))
    engines = [
        {
            "label": label,
            "name": label.split()[0],
            "speeds": medians(found),
            "rounds": found,
            "error": errors.get(label),
        }
        for label, found in rounds.items()
    ]
    return {"work": asdict(work), "engines": engines}


def benchmark(subjects: Sequence[Subject], info: DeviceInfo, asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The document after each model: a long run that is stopped leaves what it has."""
    missing = {LARGE.name: "left out by --quick"} | {subject.name: "not reached" for subject in subjects}
    models: dict[str, MeasuredModel] = {}
    document: dict[str, Any] = {
        "schema": 1,
        "device": info.id,
        "gpu": info.name,
        "machine": machine(),
        "versions": versions(*LIBRARIES),
        "rounds": asked.rounds,
        "is_quick": asked.quick,
        "models": {},
    }
    for subject in subjects:
        work = gpu_work(subject.shape, PREFILL_TOKENS)
        folder = random_folder(asked.work, subject.name)
        free = disk_free(asked.work)
        if lacks := lacking(work.file_bytes, free, info.memory_free_bytes, is_written=is_written(folder)):
            missing[subject.name] = "; ".join(lacks)
            say(f"{subject.name} is left out: {missing[subject.name]}")
        else:
            found = measured(subject, work, folder, asked)
            document["models"][subject.name] = found
            models[subject.name] = MeasuredModel(work, {e["label"]: e["speeds"] for e in found["engines"]})
        targets = judged(models, missing)
        yield {**document, "targets": [{**asdict(target), "is_met": target.is_met} for target in targets]}


def failures(document: dict[str, Any]) -> list[str]:
    """Errors of rtp and of the roof; a peer may have its own."""
    engines = [engine for model in document["models"].values() for engine in model["engines"]]
    return [f"{e['label']}: {e['error']}" for e in engines if e["error"] and e["name"] in (RTP, ROOF)]


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--device", default="cuda:0", help="as rtp names it: cuda:0, rocm:0")
    add("--quick", action="store_true", help=f"{SMALL.name} alone, one round")
    add("--rounds", type=int, default=None, help="of all engines in turn (3)")
    add("--repeats", type=int, default=5, help="of a cell within one process")
    add("--work", type=Path, default=Path(platformdirs.user_cache_dir("rtp-benchmarks")), help="where models are kept")
    add("--json", type=Path, default=None, help="the document's file (benchmarks/results/NAME-OF-THE-GPU.json)")
    add("--transformers", metavar="PYTHON", default=sys.executable, help="an interpreter with transformers and torch")
    asked = parser.parse_args(argv)
    if asked.device.partition(":")[0] not in TORCH_NAMES:
        parser.error(f"--device {asked.device}: it is one of {', '.join(TORCH_NAMES)}, as torch knows no other")
    asked.rounds = asked.rounds or (1 if asked.quick else 3)
    return asked


def main(argv: Sequence[str] | None = None) -> None:
    asked = _arguments(argv)
    try:
        info = find(asked.device)
    except NoGpu as why:
        print(f"skipped: {why}")
        return
    except ValueError as error:
        raise SystemExit(str(error)) from error
    if not is_there(asked.transformers, "transformers"):
        say(f"transformers is not installed in {asked.transformers}: left out")
        asked.transformers = None
    asked.work.mkdir(parents=True, exist_ok=True)
    file = asked.json or RESULTS / f"{slug(info.name)}{'-quick' * asked.quick}.json"
    for document in benchmark([SMALL] if asked.quick else [SMALL, LARGE], info, asked):
        file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(gpu_table.as_text(document), end="")
    print(f"written to {file}")
    if failed := failures(document):
        raise SystemExit("\n".join(failed))


if __name__ == "__main__":
    main()
