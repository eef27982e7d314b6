"""What memory bookkeeping costs: an allocation with its return, a decode step with a trace, and warm-up at a start.

    python benchmarks/memory.py [--model MODEL] [--device DEVICE]

Prints one JSON document; ends with 1 where a bound is not kept. The cost of a trace in a step is the cost that it adds
to an allocation times their number; `step_ratio`, of whole steps with and without it in turn, says less on a machine
that others use too.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from itertools import pairwise
from statistics import median

from rtp_core import LLM, SamplingParams
from rtp_core.checkpoint import hub
from rtp_core.checkpoint.opening import open_checkpoint
from rtp_core.device.manifest import DeviceConfig
from rtp_core.device.opening import open_device
from rtp_core.engine.engine_config import EngineConfig
from rtp_core.engine.memory_need import expected_need
from rtp_core.engine.setting import Setting
from rtp_core.memory.arena import Arena
from rtp_core.memory.space import NOWHERE, Region
from rtp_core.memory.tracer import TraceLevel

MAX_PAIR_US = 3.0  # with tags and ids
MAX_SHARE = {"tags": 0.01, "stacks": 0.05}  # of a decode step
MAX_WARM_UP_S = 0.3
LEVELS: tuple[TraceLevel, ...] = ("off", "tags", "stacks")
WEIGHTS = 300  # allocations that stay
PAIRS = 20_000
DEPTH = 12  # frames between an allocation and the step that it belongs to
ROUNDS = 9
TOKENS = 48  # decoded in a round


def pair_us(level: TraceLevel) -> float:
    """Microseconds of an allocation and its return, two at a time, as a layer makes them; the best of some rounds."""
    arena = Arena(Region(NOWHERE, 1 << 40, 1 << 32))
    arena.trace(level)
    held = [arena.allocate(100_000, f"weight {i}") for i in range(WEIGHTS)]

    def pairs() -> float:
        start = time.perf_counter()
        for _ in range(PAIRS):
            first, second = arena.allocate(4096, "gemm"), arena.allocate(8192, "norm")
            del first, second
        return (time.perf_counter() - start) / PAIRS / 2 * 1e6

    def deeper(depth: int) -> float:
        return deeper(depth - 1) if depth else pairs()

    def step() -> float:
        arena.begin_step("decode", {}, step.__code__)
        return deeper(DEPTH - 2)

    best = min(step() for _ in range(ROUNDS))
    assert len(held) == WEIGHTS
    return best


def decode_steps(llm: LLM) -> tuple[dict[TraceLevel, float], float]:
    """Seconds of a decode step of one request under each level, in turn; and allocations in a step."""
    params = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True)
    arena, times = llm.device.arena, {level: [] for level in LEVELS}
    made = 0.0
    for _ in range(ROUNDS):
        for level in LEVELS:
            arena.trace(level)
            arena.tracer.events.clear()
            ticks = [time.perf_counter() for progress in llm.stream([1] * 8, params) if progress.token_id is not None]
            times[level].append(median(b - a for a, b in pairwise(ticks)))
            if level == "tags":
                made = sum(event[2] > 0 for event in arena.tracer.events) / TOKENS
    return {level: median(found) for level, found in times.items()}, made


def warm_up_s(path: str, device_name: str) -> float | None:
    """Seconds of what a start does to know its memory, None where the device has to run the model for it."""
    device = open_device(device_name, DeviceConfig())
    try:
        setting = Setting.of(open_checkpoint(hub.resolve(path)), device, EngineConfig(device=device_name))
        times = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            need = expected_need(device, setting)
            times.append(time.perf_counter() - start)
        return None if need.work_space_bytes is None else median(times)
    finally:
        device.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default=hub.DEFAULT_MODEL)
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()

    pairs = {level: pair_us(level) for level in LEVELS}
    with LLM(asked.model, device=asked.device) as llm:
        steps, made = decode_steps(llm)
    shares = {level: made * (pairs[level] - pairs["off"]) * 1e-6 / steps["off"] for level in LEVELS[1:]}
    warm_up = warm_up_s(asked.model, asked.device)
    found = {
        "pair_us": pairs,
        "allocations_per_decode_step": made,
        "decode_step_ms": {level: seconds * 1e3 for level, seconds in steps.items()},
        "step_share": {"allocations": made * pairs["off"] * 1e-6 / steps["off"], **shares},
        "step_ratio": {level: steps[level] / steps["off"] for level in LEVELS[1:]},
        "warm_up_s": warm_up,
    }
    print(json.dumps(found, indent=2))
    is_kept = pairs["tags"] <= MAX_PAIR_US and all(shares[level] <= MAX_SHARE[level] for level in shares)
    sys.exit(0 if is_kept and (warm_up is None or warm_up <= MAX_WARM_UP_S) else 1)


if __name__ == "__main__":
    main()
