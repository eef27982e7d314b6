"""The arithmetic of the GPU's benchmark: work, room, roof and targets."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from comparison import gpu_roof, gpu_targets
from comparison.gpu_room import GIB, lacking
from comparison.gpu_targets import MeasuredModel, judged
from comparison.gpu_work import GpuWork, gpu_work
from comparison.random_qwen2 import QWEN2_0_5B, QWEN2_7B, Shape

TINY = Shape(
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    intermediate_size=16,
    vocab_size=100,
    tie_word_embeddings=False,
)
LINEAR = 8 * 8 + 2 * 4 * 8 + 8 * 8 + 3 * 8 * 16
VECTORS = (8 + 4 + 4) + 2 * 8 + 8


def test_the_work_of_a_model() -> None:
    # Attention: three tokens see 1 + 2 + 3 of them; two products of 8 values, 2 flop each.
    assert gpu_work(TINY, 3) == GpuWork(
        file_bytes=2 * (LINEAR + VECTORS + 2 * 800),
        decode_bytes=2 * (LINEAR + 800),
        prefill_tokens=3,
        prefill_linear_flop=2 * LINEAR * 3,
        prefill_attention_flop=6 * 2 * 8 * 2,
    )


def test_a_tied_embedding_is_stored_once_and_read_as_the_head() -> None:
    untied, tied = (gpu_work(replace(TINY, tie_word_embeddings=is_tied), 3) for is_tied in (False, True))
    assert untied.file_bytes - tied.file_bytes == 2 * 800
    assert untied.decode_bytes == tied.decode_bytes


def test_the_shapes_have_the_parameters_of_their_models() -> None:
    """As Qwen's model cards and files have them."""
    assert gpu_work(QWEN2_0_5B, 1).file_bytes == 2 * 494_032_768
    assert gpu_work(QWEN2_7B, 1).file_bytes == 2 * 7_615_616_512


def test_what_does_not_fit_is_told_with_how_much_it_needs() -> None:
    roomy = 100 * GIB
    assert lacking(10 * GIB, roomy, roomy, is_written=False) == []
    assert lacking(10 * GIB, 10 * GIB, roomy, is_written=False) == ["disk: 10.1 GiB needed, 10.0 GiB free"]
    assert lacking(10 * GIB, 0, 12 * GIB, is_written=True) == ["device memory: 13.0 GiB needed, 12.0 GiB free"]
    assert len(lacking(10 * GIB, 0, 0, is_written=False)) == 2


def test_the_roof_counts_bytes_both_ways_and_two_operations_a_product(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([9.0, 2.0, 1.0, 3.0] * 2)  # the first try warms up
    monkeypatch.setattr(gpu_roof, "_seconds", lambda call, device: (call(), next(seconds))[1])
    cpu = torch.device("cpu")
    assert gpu_roof.copy_gb_per_s(cpu, 1 << 10, tries=3) == 2 * (1 << 10) / 1e9
    assert gpu_roof.matmul_tflop_per_s(cpu, 16, tries=3) == 2 * 16**3 / 1e12


def test_the_roof_of_a_device_is_measured() -> None:
    cpu = torch.device("cpu")
    assert gpu_roof.copy_gb_per_s(cpu, 1 << 16, tries=2) > 0
    assert gpu_roof.matmul_tflop_per_s(cpu, 32, tries=2) > 0


ROOF = {"copy-gb-per-s": 1000.0, "matmul-tflop-per-s": 100.0}
WORK = GpuWork(
    file_bytes=10 * 10**9,
    decode_bytes=10 * 10**9,
    prefill_tokens=2048,
    prefill_linear_flop=2048 * 10**10,
    prefill_attention_flop=10**9,
)


def _model(ours: dict[str, float], **peers: dict[str, float]) -> MeasuredModel:
    named = {f"transformers {way.replace('_', ' ')}": speeds for way, speeds in peers.items()}
    return MeasuredModel(WORK, {"roof torch": ROOF, "rtp bfloat16": ours, **named})


def test_targets_are_shares_of_the_roof_and_times_the_best_peer() -> None:
    large = _model(
        {"decode-b1": 75.0, "decode-b64": 3000.0, "prefill-2048": 5000.0},
        eager={"decode-b64": 500.0},
        sdpa_compiled={"decode-b64": 2400.0},
    )
    small = _model(
        {"decode-b1": 300.0}, eager={"decode-b1": 50.0}, sdpa={"decode-b1": 60.0}, sdpa_compiled={"decode-b1": 200.0}
    )
    found = judged({"qwen2-7b": large, "qwen2-0.5b": small}, {})
    assert [(t.cell, t.value, t.is_met) for t in found] == [
        ("decode-b1", 0.75, True),
        ("decode-b64", 1.25, False),
        ("prefill-2048", 0.5, False),
        ("decode-b1", 5.0, True),  # over sdpa's 60: what is compiled is not eager
    ]


def test_a_target_without_its_figures_says_what_is_missing() -> None:
    failed = _model({}, eager={"decode-b64": 1.0})
    lone = _model({"decode-b1": 1.0}, sdpa_compiled={"decode-b1": 1.0})
    found = judged({"qwen2-7b": failed, "qwen2-0.5b": lone}, {})
    assert [(t.value, t.is_met) for t in found] == [(None, None)] * 4
    assert [t.why for t in found[:2]] == ["no decode-b1 of rtp", "no decode-b64 of rtp"]
    assert found[3].why == "no decode-b1 of transformers"
    assert {t.why for t in judged({}, {"qwen2-7b": "too large", "qwen2-0.5b": "no"})} == {"too large", "no"}


def test_targets_are_those_of_the_issue() -> None:
    assert [(t.model, t.cell, t.needed) for t, _ in gpu_targets.TARGETS] == [
        ("qwen2-7b", "decode-b1", 0.75),
        ("qwen2-7b", "decode-b64", 1.5),
        ("qwen2-7b", "prefill-2048", 0.60),
        ("qwen2-0.5b", "decode-b1", 3.0),
    ]
