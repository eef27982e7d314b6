"""Decode attention of SmolLM2-135M alone: milliseconds a step and GB/s of keys and values, by requests and context.

    python benchmarks/cpu_attention.py [portable|dotprod|avx2|avxvnni|avx512|avx512bf16] [threads] [float16|float32]

Every layer has keys and values of its own, block by block as in a cache, so that a long context comes from memory.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import numpy as np

from rtp_core.plugin import Buffer, DeviceConfig, DeviceInfo, dtypes
from rtp_cpu._native import ffi, lib
from rtp_cpu.device import CpuDevice
from rtp_cpu.isa import available_isas
from rtp_cpu.native import DTYPES

LAYERS, HEADS, KV_HEADS, DIM, BLOCK = 30, 9, 3, 64, 32
CASES = ((1, 64), (16, 64), (64, 64), (1, 1024), (1, 4096), (16, 1024))  # requests, tokens of context
MEMORY = 1 << 30
SECONDS = 1.0  # of each case


def caches(device: CpuDevice, blocks: int, dtype: Any) -> list[Buffer]:
    """[N, 2, K, B, D] of each layer: pieces of one run of blocks, as the engine lays them out."""
    numbers = np.random.default_rng(0).standard_normal((blocks, LAYERS, 2, KV_HEADS, BLOCK, DIM), np.float32)
    content = device.upload(numbers.astype(dtype.numpy), "kv_cache")
    return [content[:, layer] for layer in range(LAYERS)]


def steps(device: CpuDevice, requests: int, context: int, dtype: Any) -> list[float]:
    """Seconds of each step of a case."""
    blocks = -(-context // BLOCK)
    layers = caches(device, requests * blocks, dtype)
    views = [device._native.kv(kv) for kv in layers]
    table = np.arange(requests * blocks, dtype=np.int32).reshape(requests, blocks)
    lengths = np.full(requests, context, np.int32)
    q = np.random.default_rng(1).standard_normal((requests, HEADS, DIM)).astype(np.float32)
    out = np.empty_like(q)
    tensors = [ffi.cast("void *", x.ctypes.data) for x in (out, q)]
    indices = [ffi.cast("int32_t *", x.ctypes.data) for x in (table, lengths)]
    strides = (HEADS * DIM, DIM, HEADS * DIM, DIM)
    times: list[float] = []
    while sum(times) < SECONDS:
        start = time.perf_counter()
        for kv in views:
            lib.rtp_cpu_decode_attention(
                device._native.handle, kv, DTYPES[dtypes.float32], *tensors, indices[0], blocks, indices[1], requests,
                HEADS, *strides, DIM**-0.5,
            )  # fmt: skip
        times.append(time.perf_counter() - start)
    return times


def main() -> None:
    isa = sys.argv[1] if len(sys.argv) > 1 else available_isas()[-1]
    threads = int(sys.argv[2]) if len(sys.argv) > 2 else len(os.sched_getaffinity(0))
    dtype = dtypes.parse(sys.argv[3] if len(sys.argv) > 3 else "float16")
    config = DeviceConfig(threads=threads, memory_budget=MEMORY)
    device = CpuDevice(DeviceInfo("cpu:0", isa, MEMORY, MEMORY), config, isa)
    print(f"{isa}, {threads} threads, keys and values of {dtype}")
    for requests, context in CASES:
        seconds = min(steps(device, requests, context, dtype))
        nbytes = LAYERS * 2 * KV_HEADS * DIM * requests * context * dtype.itemsize
        print(f"{requests:4} x {context:4} tokens: {seconds * 1e3:8.2f} ms {nbytes / seconds / 1e9:7.1f} GB/s")
    device.close()


if __name__ == "__main__":
    main()
