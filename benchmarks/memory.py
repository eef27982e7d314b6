"""What memory bookkeeping costs: an allocation with its return, a decode step with a trace, and warm-up at a start.

    python benchmarks/memory.py [--model MODEL] [--device DEVICE]

Prints one JSON document; ends with 1 where a bound is not kept. What a trace adds to a decode step is measured on steps
that are rehearsed (no kernels, so nothing hides it), and compared with a step that is not. That one runs op by op, as
traced steps do: replayed ones allocate nothing. For devices that rehearse.
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
from rtp_core.device.device import Device
from rtp_core.device.manifest import DeviceConfig
from rtp_core.device.opening import open_device
from rtp_core.engine.engine_config import EngineConfig
from rtp_core.engine.memory_need import expected_need
from rtp_core.engine.setting import Setting
from rtp_core.kv.kv_cache import KVCache
from rtp_core.memory.arena import Arena
from rtp_core.memory.space import NOWHERE, Region
from rtp_core.memory.tracer import TraceLevel
from rtp_core.models.model import load_model
from rtp_core.models.weight_rehearsal import WeightRehearsal
from rtp_core.request import Request
from rtp_core.runner.model_runner import ModelRunner
from rtp_core.scheduled_batch import ScheduledBatch, ScheduledRequest

MAX_PAIR_US = 3.0  # with tags and ids
MAX_SHARE = {"tags": 0.01, "stacks": 0.05}  # of a decode step
MAX_WARM_UP_S = 0.3
LEVELS: tuple[TraceLevel, ...] = ("off", "tags", "stacks")
WEIGHTS = 300  # allocations that stay
PAIRS = 20_000
ROUNDS = 15
TOKENS = 40  # decoded in a round
TURNS, STEPS_OF_A_TURN = 150, 4
BATCH, CONTEXT = 1, 64


def pair_us(level: TraceLevel) -> float:
    """Microseconds of an allocation and its return, two at a time, as a layer makes them."""
    arena = Arena(Region(NOWHERE, 1 << 40, 1 << 32))
    arena.trace(level)
    held = [arena.allocate(100_000, f"weight {i}") for i in range(WEIGHTS)]
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(PAIRS):
            first, second = arena.allocate(4096, "gemm"), arena.allocate(8192, "norm")
            del first, second
        times.append((time.perf_counter() - start) / PAIRS / 2 * 1e6)
    assert len(held) == WEIGHTS
    return median(times)


def rehearsed_steps(device: Device, setting: Setting) -> tuple[dict[TraceLevel, float], float]:
    """Seconds that each level adds to a decode step, without its kernels; and the allocations of a step.

    All that a trace adds is in Python, and shows here most. Medians of differences between neighbours.
    """
    twin = device.rehearsal()
    if twin is None:
        sys.exit(f"{device.info.id} does not rehearse")
    reader = WeightRehearsal(twin, setting.checkpoint.header, setting.precision, setting.where, prepares=True)
    with twin.arena.lifetime("persistent"):
        weights = load_model(setting.checkpoint.config, reader, CONTEXT + 1, setting.where)
        cache = KVCache(twin, setting.checkpoint.config, weights.dtype, 4)
    runner = ModelRunner(setting.plan(twin), weights, cache)
    table = (0,) * -(-CONTEXT // cache.block_size)
    sampling = SamplingParams(temperature=0)
    requests = [
        Request(request_id=str(i), prompt_token_ids=(1,) * CONTEXT, sampling=sampling, seed=0) for i in range(BATCH)
    ]
    batch = ScheduledBatch(tuple(ScheduledRequest(r, CONTEXT - 1, 1, table) for r in requests), (), BATCH, BATCH)
    times: dict[TraceLevel, list[float]] = {level: [] for level in LEVELS}
    made = 0.0
    for _ in range(TURNS):
        for level in LEVELS:
            twin.arena.trace(level)
            twin.arena.tracer.ring.clear()
            start = time.perf_counter()
            for _ in range(STEPS_OF_A_TURN):
                runner.execute(batch)
            times[level].append((time.perf_counter() - start) / STEPS_OF_A_TURN)
            if level == "tags":
                made = sum(event.nbytes > 0 for event in twin.arena.tracer.events) / STEPS_OF_A_TURN
    twin.close()
    return {
        level: median(some - none for some, none in zip(times[level], times["off"], strict=True)) for level in LEVELS
    }, made


def decode_step_s(llm: LLM) -> float:
    """Seconds of a decode step, op by op, with its kernels and without a trace."""
    params = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True)
    times = []
    for _ in range(ROUNDS):
        ticks = [time.perf_counter() for progress in llm.stream([1] * 8, params) if progress.token_id is not None]
        times.append(median(b - a for a, b in pairwise(ticks)))
    return median(times)


def warm_up_s(device: Device, setting: Setting) -> float:
    """Seconds of what a start does to know its memory."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        expected_need(device, setting)
        times.append(time.perf_counter() - start)
    return median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default=hub.DEFAULT_MODEL)
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()

    pairs = {level: pair_us(level) for level in LEVELS}
    with LLM(asked.model, device=asked.device, enforce_eager=True) as llm:
        step = decode_step_s(llm)
    device = open_device(asked.device, DeviceConfig())
    setting = Setting.of(open_checkpoint(hub.resolve(asked.model)), device, EngineConfig(device=asked.device))
    added, made = rehearsed_steps(device, setting)
    warm_up = warm_up_s(device, setting)
    device.close()
    shares = {level: added[level] / step for level in LEVELS[1:]}
    found = {
        "pair_us": pairs,
        "decode_step_ms": step * 1e3,
        "allocations_per_decode_step": made,
        "share_of_decode_step": {"allocations": made * pairs["off"] * 1e-6 / step, **shares},
        "warm_up_s": warm_up,
    }
    print(json.dumps(found, indent=2))
    is_kept = pairs["tags"] <= MAX_PAIR_US and all(shares[level] <= MAX_SHARE[level] for level in shares)
    sys.exit(0 if is_kept and warm_up <= MAX_WARM_UP_S else 1)


if __name__ == "__main__":
    main()
