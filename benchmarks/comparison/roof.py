"""The machine's roof, measured in the same run, and how near to it a speed is."""

from __future__ import annotations

import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf

SOURCE = Path(__file__).with_name("roof.c")
_NOT_LINEAR = ("token_embd.weight", "output.weight")  # in prefill only the last position goes through the head


@dataclass(frozen=True, slots=True)
class Work:
    """What one token costs: bytes of weights that a decode step reads, operations of the linear layers in prefill."""

    decode_bytes: int
    prefill_ops: int


def measure(threads: int, compiler: str = "gcc") -> dict[str, Any]:
    """By number of threads, 1 and `threads`: GB/s read, float32 GFLOP/s, int8 GOP/s. Raises where nothing compiles."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "roof"
        flags = ("-O3", "-march=native", "-pthread")
        subprocess.run([compiler, *flags, str(SOURCE), "-o", str(program)], check=True, timeout=120)
        done = subprocess.run([str(program), str(threads)], check=True, capture_output=True, text=True, timeout=600)
        return dict(json.loads(done.stdout))


def work(path: Path) -> Work:
    """From a GGUF file. A tied embedding is read once a step, as the head."""
    tensors = [t for t in gguf.GGUFReader(path).tensors if len(t.shape) == 2]
    has_head = any(tensor.name == "output.weight" for tensor in tensors)
    read = [t for t in tensors if not (has_head and t.name == "token_embd.weight")]
    linear = [tensor for tensor in tensors if tensor.name not in _NOT_LINEAR]
    return Work(sum(int(t.n_bytes) for t in read), 2 * sum(int(t.n_elements) for t in linear))


def shares(speeds: dict[str, float], of: Work, roof: dict[str, Any], threads: int) -> dict[str, float]:
    """By cell, the share of the roof: of the read bandwidth in decode at batch 1, of the int8 peak in prefill."""
    top = roof[str(threads)]
    found = {}
    if "decode-b1" in speeds:
        found["decode-b1"] = speeds["decode-b1"] * of.decode_bytes / (top["read_gb_per_s"] * 1e9)
    if "prefill-512" in speeds and top["int8_gop_per_s"] > 0:
        found["prefill-512"] = speeds["prefill-512"] * of.prefill_ops / (top["int8_gop_per_s"] * 1e9)
    return found
