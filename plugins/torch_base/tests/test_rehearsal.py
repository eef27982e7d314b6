"""A rehearsal asks for the memory that the device asks for, op by op and in whole runs of a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from checkpoints import VOCAB, make_model, save
from lazy_device import LazyDevice, LazyKernelsDevice

from rtp_core import LLM, SamplingParams
from rtp_core.conformance.op_check import Setting
from rtp_core.conformance.settings import BY_OP
from rtp_core.conformance.subject import Subject
from rtp_core.plugin import OPS, Device

BUDGET = 64 << 20  # bytes
READ_IDS = ("moe_experts", "moe_layer")  # on the host, where a rehearsal has one expert do everything


def settings(subject: Subject, ops: Iterable[str] = OPS) -> Iterator[Setting]:
    for op in ops:
        for one in BY_OP[op]:
            for dtype in ("float32", "bfloat16"):
                schemes = one.schemes(subject.manifest.schemes)
                for scheme in {*schemes[:3], schemes[-1]}:  # floats or not, a scale a row, and groups
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


def test_every_kernel_takes_what_its_rehearsal_takes() -> None:
    subject = Subject.of_class(LazyKernelsDevice)
    kernels = {override.op: override.function for override in LazyKernelsDevice.overrides}
    rehearsal = subject.device.rehearsal()
    assert rehearsal is not None
    twin, ops = rehearsal.bound(kernels), subject.device.bound(kernels)
    found = [(one.name, taken(twin, one, subject), taken(ops, one, subject)) for one in settings(subject, kernels)]
    assert [name for name, rehearsed, real in found if rehearsed != real] == []
    assert {name.split()[0] for name, _, _ in found} == set(kernels)
    subject.close()


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize(
    ("device", "limit", "seqs", "quantization"),
    [
        ("lazy", 160, 6, None),
        ("lazy", 160, 6, "int8_channel"),
        ("lazy", 160, 6, "fp8_channel"),
        ("lazy_graphs", 160, 6, None),
        ("lazy_kernels", 40, 2, "q4_0"),
    ],
)
def test_no_run_within_the_limits_passes_the_predicted_peak(
    device: str, limit: int, seqs: int, quantization: str | None, tmp_path: Path
) -> None:
    """`limit`: of tokens in a step and of a request; an interpreter of kernels takes its time for each."""
    options = {"dtype": "auto", "quantization": quantization, "memory_budget": BUDGET}
    limits = {"max_model_len": limit, "max_num_seqs": seqs, "max_num_batched_tokens": limit}
    save(make_model("llama_tied"), tmp_path)
    rng = np.random.default_rng(4)
    params = SamplingParams(temperature=0, max_tokens=3, ignore_eos=True, logprobs=2, prompt_logprobs=0)
    with LLM(str(tmp_path), device=device, **options, **limits) as llm:
        arena, need = llm.device.arena, llm.memory.need
        predicted = need.work_space_bytes
        assert predicted is not None
        kv_bytes = need.kv_bytes(llm.memory.kv_tokens) + need.filler_bytes
        assert arena.stats().persistent_bytes == need.weights_bytes + kv_bytes
        arena.reset_peak()
        base = arena.stats().peak_reach_bytes
        for lengths in ((limit - 3,), (limit // 10,) * seqs, (limit * 5 // 8, limit // 8, 3)[:seqs], (1,)):
            llm.generate([rng.integers(0, VOCAB, length).tolist() for length in lengths], params)
        observed = arena.stats().peak_reach_bytes - base
        assert arena.stats().public_bytes == 0, arena.table()
    assert observed <= predicted <= 1.1 * observed
