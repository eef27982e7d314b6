"""A GPU's roof, run by `gpu.py` in a process of its own: copies within its memory, and products of bf16 matrices.

    python gpu_roof.py --device cuda:0 --repeats N

Prints one line of JSON with the best of the tries: bytes read and written, and two operations for each product of two
values. Calls follow each other without a gap; the clock is read once all are done.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import torch

COPIED_BYTES = 1 << 30  # past every cache
MATRIX_ROWS = 8192
CALLS = 20


def copy_gb_per_s(device: torch.device, nbytes: int = COPIED_BYTES, tries: int = 5) -> float:
    source = torch.ones(nbytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * nbytes / _best_seconds(lambda: target.copy_(source), device, tries) / 1e9


def matmul_tflop_per_s(device: torch.device, rows: int = MATRIX_ROWS, tries: int = 5) -> float:
    # Random values: the power that a product takes, and with it the clock, depends on them.
    a, b = (torch.randn(rows, rows, dtype=torch.bfloat16, device=device) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * rows**3 / _best_seconds(lambda: torch.mm(a, b, out=out), device, tries) / 1e12


def _best_seconds(call: Callable[[], object], device: torch.device, tries: int) -> float:
    """Of one call, after a try that warms up."""
    return min([_seconds(call, device) for _ in range(1 + tries)][1:])


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    start = _now(device)
    for _ in range(CALLS):
        call()
    return (_now(device) - start) / CALLS


def _now(device: torch.device) -> float:
    """The clock, once the device has done all that it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", type=torch.device, required=True)
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    found = {
        "copy-gb-per-s": copy_gb_per_s(asked.device, tries=asked.repeats),
        "matmul-tflop-per-s": matmul_tflop_per_s(asked.device, tries=asked.repeats),
    }
    print(json.dumps({"version": torch.__version__, "speeds": found}))


if __name__ == "__main__":
    main()
