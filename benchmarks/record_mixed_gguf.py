"""What llama.cpp says of the random files that mix quantized types: a recorded check for tests/e2e/test_mixed_gguf.py.

    PYTHONPATH=tests/e2e python benchmarks/record_mixed_gguf.py tests/data/mixed_gguf_llama_cpp.json

Stores token ids and llama.cpp's log probability of each but the first: of the file, where it quantizes activations
to 8 bits, and of the same numbers in floats, where it does not. Needs llama-cpp-python.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from llama_cpp_peer import LlamaCpp
from mixed_gguf import MIXED, write_mixed

NUM_TOKENS = 192


def recorded(name: str, folder: Path) -> dict[str, list[float]]:
    ids = np.random.default_rng(11).integers(0, 256, NUM_TOKENS).tolist()
    files = {
        "quantized": write_mixed(name, folder / "q.gguf"),
        "floats": write_mixed(name, folder / "f.gguf", as_floats=True),
    }
    scores = {kind: LlamaCpp(str(path)).prompt_scores(ids) for kind, path in files.items()}
    return {"token_ids": ids} | {kind: [round(float(score), 5) for score in found] for kind, found in scores.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = {name: recorded(name, Path(folder)) for name in MIXED}
    arguments.output.write_text(json.dumps(found) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
