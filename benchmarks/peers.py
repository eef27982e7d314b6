"""rtp and its peers on this machine, in turn: speeds, quality, and ours over the best peer whose quality counts.

    python benchmarks/peers.py [--quick] [--model smollm2] [--cells 'decode-*'] [--json FILE] [--chart FILE]

Every engine runs in a process of its own, all with the same threads; a round has each of them once. What they are
measured by is `comparison/cells.py`, what the speeds mean `comparison/ratios.py`. Peers that are not installed are
left out; ik_llama.cpp is then taken to be as many times llama.cpp as we measured once.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import platformdirs
from comparison import chart, distances, entrants as who, models, ours, ratios, roof, table
from comparison.cells import CELLS, QUICK, Cell, chosen
from comparison.entrants import Entrant, Installed, label
from comparison.models import Model
from comparison.process import EngineError, peak_rss_bytes, run
from comparison.turns import in_turn

from rtp_core.checkpoint import hub
from rtp_core.cli.machine import machine
from rtp_core.errors import RtpError

TEXTS = Path(__file__).parent.parent / "tests" / "data" / "texts"
MODELS = ("smollm2", "qwen2", "minilm")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def measured(
    model: Model, cells: Sequence[Cell], installed: Installed, judges: dict[str, Any], asked: argparse.Namespace
) -> dict[str, Any]:
    """One model: rounds of all entrants, their quality, and what that means. `judges`: what was found on the others."""
    everyone = who.entrants(model, installed)
    taking_part = [e for e in everyone if any(fnmatchcase(label(e), pattern) for pattern in asked.engines)]
    runs = {label(e): partial(e.speeds, cells, asked.threads, asked.repeats) for e in taking_part}
    rounds, errors = in_turn(runs, asked.rounds, lambda line: say(f"{model.name}, {line}"))
    is_judged = not (asked.no_quality or model.is_encoder or model.is_random)
    quality = _quality(model, taking_part, errors, asked) if is_judged else {}
    return _meaning(model, taking_part, rounds, quality, judges if model.is_random else {}, errors)


def _quality(
    model: Model, taking_part: Sequence[Entrant], errors: dict[str, str], asked: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """By label and text; what cannot be measured is said and left out."""
    texts = sorted(TEXTS.glob("*.txt"))[: 1 if asked.quick else None]
    found: dict[str, dict[str, Any]] = {}
    for file in dict.fromkeys(entrant.reference for entrant in taking_part):
        same = [e for e in taking_part if e.reference == file and label(e) not in errors]
        if file is None or not same:
            continue
        say(f"{model.name}: quality against float32 of {file.name}")
        try:
            found |= _quality_of_file(file, same, texts, asked.threads)
        except RtpError as error:
            say(f"  no quality: {error}")
    return found


def _quality_of_file(
    file: Path, same: Sequence[Entrant], texts: Sequence[Path], threads: int
) -> dict[str, dict[str, Any]]:
    """Entrants of one file, whose reference is opened once. Raises RtpError where rtp cannot run it."""
    found: dict[str, dict[str, Any]] = {}
    with distances.open_reference(file, threads) as reference, tempfile.TemporaryDirectory() as folder:
        token_ids = {path.stem: reference.tokenizer.encode(path.read_text(encoding="utf-8")) for path in texts}
        ids = Path(folder) / "ids.json"
        ids.write_text(json.dumps(token_ids))
        for entrant in same:
            try:
                if isinstance(entrant, who.Ours):
                    found[label(entrant)] = {path.stem: ours.quality(entrant.model, path, threads) for path in texts}
                elif entrant.score(ids, Path(folder), threads):
                    found[label(entrant)] = distances.distances(reference, token_ids, Path(folder))
            except EngineError as error:
                say(f"  no quality of {label(entrant)}: {error}")
    return found


def _meaning(
    model: Model,
    taking_part: Sequence[Entrant],
    rounds: dict[str, list[dict[str, float]]],
    quality: dict[str, dict[str, Any]],
    judges: dict[str, Any],
    errors: dict[str, str],
) -> dict[str, Any]:
    engines = []
    for entrant in taking_part:
        speeds = ratios.medians(rounds[label(entrant)])
        means = _means(quality.get(label(entrant), {}))
        engines.append(ratios.Engine(entrant.name, entrant.variant, speeds, means.get("kl")))
    if judges:
        known = [e for other in judges.values() for e in other["engines"]]
        others = [ratios.Engine(e["name"], e["variant"], {}, e["quality_mean"].get("kl")) for e in known]
        engines = ratios.judged_by(engines, others)
    mine = [engine for engine in engines if engine.name == who.RTP]
    peers = [engine for engine in engines if engine.name != who.RTP]
    counted = {engine.label for engine in (*mine, *ratios.passing(peers))}
    return {
        "engines": [
            {
                "label": engine.label,
                "name": engine.name,
                "variant": engine.variant,
                "is_ours": engine in mine,
                "counts": engine.label in counted,
                "speeds": dict(engine.speeds),
                "rounds": rounds[engine.label],
                "quality": quality.get(engine.label, {}),
                "quality_mean": _means(quality.get(engine.label, {})),
                "error": errors.get(engine.label),
            }
            for engine in engines
        ],
        "ratios": [{**asdict(found), "ratio": found.ratio} for found in ratios.ratios(model.name, mine, peers)],
    }


def _means(by_text: dict[str, dict[str, float]]) -> dict[str, float]:
    names = next(iter(by_text.values()), {})
    return {name: sum(figures[name] for figures in by_text.values()) / len(by_text) for name in names}


def _roof_shares(model: Model, found: dict[str, Any], tops: dict[str, Any], threads: int) -> dict[str, Any]:
    if model.is_encoder or not tops:
        return {}
    return {
        engine["label"]: roof.shares(engine["speeds"], roof.work(model.ggufs[engine["variant"]]), tops, threads)
        for engine in found["engines"]
        if engine["is_ours"]
    }


def _starts(model: Model, installed: Installed, threads: int) -> dict[str, Any]:
    """From the start of a process to its first token, and the most memory it held, on one file."""
    commands: dict[str, Sequence[str]] = {"rtp": ours.first_token(model.file, threads)}
    if installed.llama_cpp is not None:
        script = str(who.FOLDER / "run_llama_cpp.py")
        options = ("--threads", str(threads), "--first-token")
        commands["llama.cpp"] = [installed.llama_cpp, script, str(model.file), *options]
    found: dict[str, Any] = {}
    for name, command in commands.items():
        tries = [run(command) for _ in range(3)]
        found[name] = {
            "first_token_s": sorted(t.first_byte_s for t in tries)[1],
            "peak_rss_mib": peak_rss_bytes(command) / (1 << 20),
        }
    return found


def _open(name: str, asked: argparse.Namespace, installed: Installed) -> Model:
    """A model with its files in the cache folder."""
    default = asked.gguf or hub.resolve(hub.DEFAULT_MODEL)
    if name == "minilm":
        return models.minilm(asked.work)
    if name == "qwen2":
        return models.qwen2(default, asked.work)

    def requantize(source: Path, kind: str, out: Path) -> None:
        script = str(who.FOLDER / "run_llama_cpp.py")
        run([str(installed.llama_cpp), script, str(source), "--requantize", kind, str(out)])

    return models.smollm2(default, asked.work, requantize if installed.llama_cpp else None)


def _installed(asked: argparse.Namespace) -> Installed:
    def found(interpreter: str, package: str) -> str | None:
        if who.is_there(interpreter, package):
            return interpreter
        say(f"{package} is not installed in {interpreter}: left out")
        return None

    folders = {"smollm2": asked.openvino_model, "qwen2": asked.openvino_qwen2, "minilm": asked.openvino_minilm}
    return Installed(
        llama_cpp=found(asked.llama_cpp, "llama_cpp"),
        openvino=found(asked.openvino, "openvino_genai"),
        transformers=found(asked.transformers, "transformers"),
        ik_llama_bench=asked.ik_llama_bench,
        openvino_folders={name: folder for name, folder in folders.items() if folder is not None},
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--quick", action="store_true", help="one round of a few cells on the default model, quality on one text")
    add("--model", action="append", choices=MODELS, help="repeatable; all if not given")
    add("--gguf", type=Path, help="the GGUF file that stands for smollm2; the default model's if not given")
    add("--cells", nargs="*", default=None, help=f"of {', '.join(cell.name for cell in CELLS)}; * stands for anything")
    add("--engines", nargs="*", default=["*"], help="by label, as 'rtp*' 'llama.cpp Q4_0'; * stands for anything")
    add("--rounds", type=int, default=None, help="of all engines in turn (3)")
    add("--repeats", type=int, default=3, help="of a cell within one process")
    add("--threads", type=int, default=len(os.sched_getaffinity(0)))
    add("--work", type=Path, default=Path(platformdirs.user_cache_dir("rtp-benchmarks")), help="where models are kept")
    add("--json", type=Path, help="store the document here")
    add("--chart", type=Path, help="write an SVG here")
    add("--llama-cpp", metavar="PYTHON", default=sys.executable, help="an interpreter with llama-cpp-python")
    add("--openvino", metavar="PYTHON", default=sys.executable, help="an interpreter with openvino-genai")
    add("--transformers", metavar="PYTHON", default=sys.executable, help="an interpreter with transformers and torch")
    add("--ik-llama-bench", metavar="PATH", help="llama-bench of ik_llama.cpp")
    for name, option in (("smollm2", "model"), ("qwen2", "qwen2"), ("minilm", "minilm")):
        add(f"--openvino-{option}", metavar="DIR", type=Path, help=f"{name} exported to OpenVINO in int8")
    add("--no-quality", action="store_true", help="speeds alone: every peer counts")
    add("--no-start", action="store_true", help="leave out the first token, memory and the clock outside")
    asked = parser.parse_args()
    asked.rounds = asked.rounds or (1 if asked.quick else 3)
    asked.model = asked.model or (["smollm2"] if asked.quick else list(MODELS))
    try:
        asked.cells = chosen(asked.cells or (QUICK if asked.quick else ["*"]))
    except ValueError as error:
        parser.error(str(error))
    return asked


def main() -> None:
    asked = _arguments()
    asked.work.mkdir(parents=True, exist_ok=True)
    installed = _installed(asked)
    say("roof")
    tops = roof.measure(asked.threads)
    document: dict[str, Any] = {
        "schema": 1,
        "machine": machine(),
        "threads": asked.threads,
        "rounds": asked.rounds,
        "roof": tops,
        "models": {},
    }
    for name in asked.model:
        say(f"{name}: files")
        model = _open(name, asked, installed)
        cells = [cell for cell in asked.cells if (cell.kind == "encode") == model.is_encoder]
        if not cells:
            continue
        found = measured(model, cells, installed, document["models"], asked)
        document["models"][name] = {**found, "roof_shares": _roof_shares(model, found, tops, asked.threads)}
        if name == "smollm2" and not asked.no_start:
            say("first token, memory, and the clock outside")
            document["start"] = _starts(model, installed, asked.threads)
            document["cross_check"] = ours.cross_check(model.file, asked.threads)
        if asked.json is not None:  # after every model: a long run that is stopped leaves what it has
            asked.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if asked.chart is not None:
        asked.chart.write_text(chart.as_svg(document), encoding="utf-8")
    print(table.as_text(document), end="")


if __name__ == "__main__":
    main()
