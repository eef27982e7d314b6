"""A rehearsal asks for the memory that the device asks for, op by op and in whole runs of a model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from checkpoints import VOCAB, make_model, save
from lazy_device import LazyDevice

from rtp_core import LLM, SamplingParams
from rtp_core.conformance.op_check import Setting
from rtp_core.conformance.settings import BY_OP
from rtp_core.conformance.subject import Subject
from rtp_core.plugin import OPS, Device

BUDGET = 64 << 20  # bytes
READ_IDS = ("moe_experts", "moe_layer")  # on the host, where a rehearsal has one expert do everything
LIMITS = {"max_model_len": 160, "max_num_seqs": 6, "max_num_batched_tokens": 160}


def settings(subject: Subject) -> Iterator[Setting]:
    for op in OPS:
        for one in BY_OP[op]:
            for dtype in ("float32", "bfloat16"):
                schemes = one.schemes(subject.manifest.schemes)
                for scheme in {schemes[0], schemes[-1]}:
                    yield Setting(one, dtype, rows=5, scheme=scheme)


def taken(device: Device, setting: Setting, subject: Subject) -> int:
    """Bytes at the peak of one call."""
    call = setting.operands.make(setting.bench(device, subject))
    device.arena.reset_peak()
    before = device.arena.stats().used_bytes
    returned = getattr(device, setting.op)(*call.args, **call.options)
    peak = device.arena.stats().peak_bytes - before
    del returned
    return peak


def test_every_op_takes_what_its_rehearsal_takes() -> None:
    subject = Subject.of_class(LazyDevice)
    twin = subject.device.rehearsal()
    assert twin is not None
    differing, count = [], 0
    for setting in settings(subject):
        rehearsed, real = taken(twin, setting, subject), taken(subject.device, setting, subject)
        count += 1
        if rehearsed < real or (rehearsed > real and setting.op not in READ_IDS):
            differing.append((setting.name, rehearsed, real))
    assert differing == []
    assert count > 100
    subject.close()


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize("device", ["lazy", "lazy_graphs"])
def test_no_run_within_the_limits_passes_the_predicted_peak(device: str, tmp_path: Path) -> None:
    save(make_model("llama_tied"), tmp_path)
    rng = np.random.default_rng(4)
    params = SamplingParams(temperature=0, max_tokens=3, ignore_eos=True, logprobs=2, prompt_logprobs=0)
    with LLM(str(tmp_path), device=device, dtype="float32", memory_budget=BUDGET, **LIMITS) as llm:
        arena, predicted = llm.device.arena, llm.memory.need.work_space_bytes
        assert predicted is not None
        arena.reset_peak()
        base = arena.stats().peak_reach_bytes
        for lengths in ((156,), (16,) * 6, (100, 20, 3), (1,)):
            llm.generate([rng.integers(0, VOCAB, length).tolist() for length in lengths], params)
        observed = arena.stats().peak_reach_bytes - base
        assert arena.stats().public_bytes == 0, arena.table()
    assert observed <= predicted <= 1.1 * observed
