"""The matrix products of SmolLM2-135M alone: milliseconds, GB/s of weights and GOP/s at 1 to 512 rows.

    python benchmarks/cpu_gemm.py [portable|dotprod|avx2|avxvnni|avx512|avx512bf16] [threads] [q4_1|q4_0|bf16]

Every layer has weights of its own, so that one row reads the whole model from memory, as a decode step does.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from rtp_core.plugin import DeviceConfig, DeviceInfo
from rtp_cpu._native import ffi, lib
from rtp_cpu.device import CpuDevice
from rtp_cpu.isa import available_isas

LAYERS = 30
SHAPES = [(960, 576), (576, 576), (3072, 576), (576, 1536)]  # [N, K]: qkv, o, gate and up, down
VOCABULARY = (49152, 576)
SCRATCH = 64 << 20  # bytes
WEIGHTS = {"q4_1": 128 << 20, "q4_0": 128 << 20, "bf16": 288 << 20}  # bytes
Q4_0, Q4_1, Q8_0 = 0, 1, 2
PLAIN = {Q4_0: (16, False), Q4_1: (16, True), Q8_0: (32, False)}  # payload bytes of a group, whether it has zeros


def pointer(array: np.ndarray[Any, Any]) -> Any:
    return ffi.cast("void *", array.ctypes.data)


def cut(arena: list[Any], size: int) -> np.ndarray[Any, Any]:
    out, arena[0] = arena[0][:size], arena[0][-(-size // 64) * 64 :]
    return out


def paired_weight(device: Any, n: int, k: int, rng: np.random.Generator, arena: list[Any]) -> np.ndarray[Any, Any]:
    """Random bf16 in layout pairs16, cut from the rest of `arena`."""
    plain = (rng.standard_normal((n, k)).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    out = cut(arena, lib.rtp_cpu_pairs16_bytes(n, k))
    assert lib.rtp_cpu_pairs16_pack(device, pointer(out), pointer(plain), n, k, k) == 0
    return out


def packed_weight(
    device: Any, scheme: int, n: int, k: int, rng: np.random.Generator, arena: list[Any]
) -> np.ndarray[Any, Any]:
    """Random codes in layout rows16, cut from the rest of `arena`, one array: large ones get large pages."""
    payload_bytes, has_zeros = PLAIN[scheme]
    payload = rng.integers(0, 256, (n, k // 32, payload_bytes), dtype=np.uint8)
    scales = np.full((n, k // 32), 0.01, np.float16)
    out = cut(arena, lib.rtp_cpu_rows16_bytes(scheme, n, k))
    parts = {"payload": pointer(payload), "scales": pointer(scales)} | ({"zeros": pointer(scales)} if has_zeros else {})
    assert lib.rtp_cpu_rows16_pack(device, scheme, pointer(out), ffi.new("rtp_cpu_plain *", parts), n, k) == 0
    return out


def best_of(rounds: int, run: Callable[[], None]) -> float:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    isa = sys.argv[1] if len(sys.argv) > 1 else available_isas()[-1]
    threads = int(sys.argv[2]) if len(sys.argv) > 2 else len(os.sched_getaffinity(0))
    form = sys.argv[3] if len(sys.argv) > 3 else "q4_1"
    config = DeviceConfig(threads=threads, memory_budget=SCRATCH)
    opened = CpuDevice(DeviceInfo("cpu:0", isa, SCRATCH, SCRATCH), config, isa)
    device = opened._native.handle
    rng = np.random.default_rng(0)
    arena = [np.empty(WEIGHTS[form], np.uint8)]
    scheme_of_layers = Q4_0 if form == "q4_0" else Q4_1
    shapes = [(scheme_of_layers, *shape) for _ in range(LAYERS) for shape in SHAPES] + [(Q8_0, *VOCABULARY)]
    weights = [
        (scheme, n, k, paired_weight(device, n, k, rng, arena))
        if form == "bf16"
        else (scheme, n, k, packed_weight(device, scheme, n, k, rng, arena))
        for scheme, n, k in shapes
    ]
    print(f"{isa}, {threads} threads, {form} weights")
    for rows, with_logits in ((1, True), (4, True), (16, True), (64, True), (512, False)):
        chosen = weights if with_logits else weights[:-1]
        x = rng.standard_normal((rows, 1536)).astype(np.float32)
        y = np.empty((rows, VOCABULARY[0]), np.float32)
        calls = [(scheme, pointer(w), n, k) for scheme, n, k, w in chosen]
        px, py = pointer(x), pointer(y)

        def step(calls: Any = calls, px: Any = px, py: Any = py, rows: int = rows) -> None:
            for scheme, w, n, k in calls:
                sizes = (rows, n, k, n, k)
                if form == "bf16":
                    lib.rtp_cpu_gemm_pairs16(device, 0, py, px, w, 0, ffi.NULL, *sizes)
                else:
                    lib.rtp_cpu_gemm_rows16(device, scheme, 0, py, px, w, 0, ffi.NULL, *sizes)

        seconds = best_of(5 if rows > 16 else 20, step)
        nbytes = sum(w.nbytes for *_, w in chosen)
        ops = 2 * rows * sum(n * k for _, n, k, _ in chosen)
        rates = f"{nbytes / seconds / 1e9:7.1f} GB/s {ops / seconds / 1e9:7.0f} GOP/s"
        print(f"{rows:4} rows: {seconds * 1e3:8.2f} ms {rates}")
    a, b, c = (rng.standard_normal((1024, 1024)).astype(np.float32) for _ in range(3))
    pa, pb, pc = pointer(a), pointer(b), pointer(c)
    for rows in (1, 512):

        def product(m: int = rows, n: int = 1024) -> None:
            lib.rtp_cpu_gemm(device, 0, pc, pa, 0, pb, 0, ffi.NULL, 1, m, n, n, n, n, n, 1, ffi.NULL)

        seconds = best_of(20, product)
        print(f"float32 {rows:4} x 1024 x 1024: {seconds * 1e3:8.3f} ms {rows * 2**21 / seconds / 1e9:7.1f} GFLOP/s")
    opened.close()


if __name__ == "__main__":
    main()
