"""What a start costs, seen from outside: seconds to the first token and to the end, and the most resident memory.

    python benchmarks/start.py [--rounds 7] [--model MODEL] [--llama-cpp PYTHON] [--json]

The command is `rtp generate hi --max-tokens 1 --device cpu`, with default settings; the model is in the cache and its
file has just been read. With an interpreter that has llama-cpp-python, the same of that, on the same file. Medians; the
first byte is the first token. Limits: 1.2 s to the first token, and llama.cpp's memory plus 15 %.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from comparison.entrants import FOLDER
from comparison.ours import RTP
from comparison.process import Command, peak_rss_bytes, run

from rtp_core.checkpoint import hub

ROUNDS = 7
LIMIT_S = 1.2
MEMORY_RATIO_LIMIT = 1.15


def measure(command: Command, rounds: int) -> dict[str, float]:
    """Medians; a first round, which writes bytecode as an installation does, is not counted."""
    run(command)
    timed = [run(command) for _ in range(rounds)]
    return {
        "first_token_s": round(median(one.first_byte_s for one in timed), 3),
        "wall_s": round(median(one.wall_s for one in timed), 3),
        "peak_rss_mib": round(median(peak_rss_bytes(command) for _ in range(rounds)) / (1 << 20), 1),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--model", default=hub.DEFAULT_MODEL)
    parser.add_argument("--llama-cpp", metavar="PYTHON", help="an interpreter that has llama-cpp-python")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(argv)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    model: Path = hub.resolve(asked.model)
    ours = [*RTP, "generate", "hi", "--max-tokens", "1", "--device", "cpu", "--model", str(model)]
    found: dict[str, Any] = {"rtp": measure(ours, asked.rounds)}
    if asked.llama_cpp:
        theirs = [asked.llama_cpp, str(FOLDER / "run_llama_cpp.py"), str(model), "--first-token"]
        found["llama.cpp"] = measure(theirs, asked.rounds)
        ratio = found["rtp"]["peak_rss_mib"] / found["llama.cpp"]["peak_rss_mib"]
        found["memory_ratio"], found["memory_ratio_limit"] = round(ratio, 3), MEMORY_RATIO_LIMIT
    found["first_token_limit_s"] = LIMIT_S
    print(json.dumps(found) if asked.json else "\n".join(f"{name}: {figures}" for name, figures in found.items()))


if __name__ == "__main__":
    main()
