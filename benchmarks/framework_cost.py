"""What a decode step costs outside of the device: schedule, batch build, argmax, detokenize, stop checks.

    python benchmarks/framework_cost.py [--batch 1 --batch 64] [--model MODEL]

The device is the recorder of the tests, which computes nothing; decode steps are replayed, and tokens chosen, by calls
that do nothing. Everything else is as in any run of the model, with a stop string. Limits: 60 us a step at batch 1,
400 us at batch 64.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtp_core.checkpoint import hub
from rtp_core.checkpoint.opening import open_checkpoint
from rtp_core.engine import loading
from rtp_core.engine.engine_config import EngineConfig
from rtp_core.plugin import AttentionBatch, Buffer, DeclaredOverride, DeviceConfig, DeviceInfo, overrides
from rtp_core.request import Request, SamplingParams
from rtp_core.text.tokenizer import Tokenizer
from rtp_test_devices.recorder import RecorderDevice

BUDGET = 1 << 38  # bytes, imaginary
MAX_MODEL_LEN = 2048
OUTPUT_TOKENS = 256
ROUNDS = 5
TOKEN = 338  # " is", whatever was asked
LIMITS_US = {1: 60.0, 64: 400.0}


class ReplayingRecorder(RecorderDevice):
    """Attention in one call, so that a whole decode step can be recorded; token ids that nobody computed."""

    manifest = replace(
        RecorderDevice.manifest,
        overrides=(
            DeclaredOverride("decoder_self_attention", "recorder.attention"),
            DeclaredOverride("sample", "recorder.sample"),
        ),
    )

    @overrides("decoder_self_attention", impl="recorder.attention")
    def _attention(
        self, q: Buffer, kv: Buffer, batch: AttentionBatch, *, scale: float, out: Buffer | None = None
    ) -> Buffer:
        return self.alloc(q.shape, q.dtype, "attention") if out is None else out

    @overrides("sample", impl="recorder.sample")
    def _sample(
        self,
        logits: Buffer,
        *,
        temperature: NDArray[np.float32],
        top_k: NDArray[np.int64],
        top_p: NDArray[np.float32],
        min_p: NDArray[np.float32],
        uniforms: NDArray[np.float64],
    ) -> NDArray[np.int64]:
        return np.full(logits.shape[0], TOKEN)

    def copy(self, dst: Buffer, src: Buffer) -> None:
        pass

    def download(self, x: Buffer) -> NDArray[Any]:
        return np.zeros(x.shape, x.dtype.numpy)  # warm-up asks for log probabilities

    def capture(self, step: Callable[[], None]) -> Callable[[], None]:
        step()
        return lambda: None


def open_engine(model: Path) -> loading.LoadedEngine:
    checkpoint = open_checkpoint(model)
    assert checkpoint.tokenizer is not None
    info = DeviceInfo("recorder:0", "computes nothing", 1 << 40, 1 << 40)
    device = ReplayingRecorder(info, DeviceConfig(memory_budget=BUDGET))
    length = min(MAX_MODEL_LEN, checkpoint.config.max_position_embeddings)
    config = EngineConfig(device="recorder", memory_budget=BUDGET, max_model_len=length)
    tokenizer = Tokenizer.from_source(checkpoint.tokenizer)
    return loading._load(checkpoint, tokenizer, device, config, None, lambda done, total: None)


def step_us(loaded: loading.LoadedEngine, batch: int, tokens: int, round: int) -> float:
    """The median decode step of one round, in microseconds."""
    sampling = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, stop=["\n\n"])
    for i in range(batch):
        loaded.engine.add(Request(request_id=f"{round}-{i}", prompt_token_ids=(1, 2, 3), sampling=sampling, seed=0))
    loaded.engine.step()
    times = []
    while loaded.engine.has_unfinished:
        start = time.perf_counter()
        loaded.engine.step()
        times.append(time.perf_counter() - start)
    return median(times) * 1e6


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, action="append", help="default: 1 and 64")
    parser.add_argument("--model", default=hub.DEFAULT_MODEL)
    parser.add_argument("--tokens", type=int, default=OUTPUT_TOKENS, help="of each request in a round")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    loaded = open_engine(hub.resolve(arguments.model, None))
    assert not loaded.why_eager, loaded.why_eager
    rows = []
    for batch in arguments.batch or [1, 64]:
        measured = median(step_us(loaded, batch, arguments.tokens, round) for round in range(arguments.rounds))
        rows.append({"batch": batch, "step_us": round(measured, 1), "limit_us": LIMITS_US.get(batch)})
    print(json.dumps({"rows": rows}) if arguments.json else "\n".join(map(str, rows)))


if __name__ == "__main__":
    main()
