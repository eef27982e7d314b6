"""Attention of SmolLM2-135M alone. Decode: milliseconds a step and GB/s of keys and values, by requests and context.
Prefill: milliseconds of all layers and billions of products a second, of those that a causal query needs.

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
PROMPTS = ((16, 32), (4, 128), (1, 512), (1, 4096))  # requests, tokens of each prompt
MEMORY = 1 << 30
SECONDS = 1.0  # of each case


def caches(device: CpuDevice, blocks: int, dtype: Any) -> list[Buffer]:
    """[N, 2, K, B, D] of each layer: pieces of one run of blocks, as the engine lays them out."""
    numbers = np.random.default_rng(0).standard_normal((blocks, LAYERS, 2, KV_HEADS, BLOCK, DIM), np.float32)
    content = device.upload(numbers.astype(dtype.numpy), "kv_cache")
    return [content[:, layer] for layer in range(LAYERS)]


def steps(device: CpuDevice, requests: int, context: int, queries: int, dtype: Any) -> list[float]:
    """Seconds of each step of a case: attention of the last `queries` tokens of each context, in all layers."""
    blocks = -(-context // BLOCK)
    layers = caches(device, requests * blocks, dtype)
    views = [device._native.kv(kv) for kv in layers]
    table = np.arange(requests * blocks, dtype=np.int32).reshape(requests, blocks)
    lengths = np.full(requests, context, np.int32)
    starts = np.arange(requests + 1, dtype=np.int32) * queries
    q = np.random.default_rng(1).standard_normal((requests * queries, HEADS, DIM)).astype(np.float32)
    out = np.empty_like(q)
    tensors = [ffi.cast("void *", x.ctypes.data) for x in (out, q)]
    tables, ends, first = (ffi.cast("int32_t *", x.ctypes.data) for x in (table, lengths, starts))
    strides = (HEADS * DIM, DIM, HEADS * DIM, DIM)
    is_decode = queries == 1
    attention = lib.rtp_cpu_decode_attention if is_decode else lib.rtp_cpu_context_attention
    of_requests = (tables, blocks, ends, requests) if is_decode else (tables, blocks, ends, first, requests)
    times: list[float] = []
    while sum(times) < SECONDS:
        start = time.perf_counter()
        for kv in views:
            attention(
                device._native.handle, kv, DTYPES[dtypes.float32], *tensors, *of_requests, HEADS, *strides, DIM**-0.5
            )
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
        seconds = min(steps(device, requests, context, 1, dtype))
        nbytes = LAYERS * 2 * KV_HEADS * DIM * requests * context * dtype.itemsize
        print(f"{requests:4} x {context:4} tokens: {seconds * 1e3:8.2f} ms {nbytes / seconds / 1e9:7.1f} GB/s")
    for requests, prompt in PROMPTS:
        seconds = min(steps(device, requests, prompt, prompt, dtype))
        products = LAYERS * HEADS * requests * prompt * (prompt + 1) / 2 * 2 * DIM
        print(f"{requests:4} x {prompt:4} prompt: {seconds * 1e3:8.2f} ms {products / seconds / 1e9:7.1f} G/s")
    device.close()


if __name__ == "__main__":
    main()
