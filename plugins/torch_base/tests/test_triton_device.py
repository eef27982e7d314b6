"""Kernels as overrides, where the sizes of conformance do not lead."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from lazy_device import LazyKernelsDevice, open_device

from rtp_core.plugin import AttentionBatch, DeviceError, Signature, dtypes

BUDGET = 64 << 20  # bytes


@pytest.fixture
def device() -> Iterator[LazyKernelsDevice]:
    device = open_device(LazyKernelsDevice, BUDGET)
    yield device
    device.close()


def test_a_long_context_is_split_in_work_space_of_the_arena(device: LazyKernelsDevice) -> None:
    rng, lengths = np.random.default_rng(3), np.array([700, 1], np.int32)
    tables = rng.permutation(48).reshape(2, 24).astype(np.int32)  # 768 tokens of 32 a block: in three
    kv = device.upload(rng.standard_normal((48, 2, 1, 32, 16)).astype(np.float32), "kv")
    q = device.upload(rng.standard_normal((2, 2, 16)).astype(np.float32), "q")
    ints = np.array([0, 1, 2], np.int32), lengths, tables, lengths - 1, np.zeros(2, np.int32)
    batch = AttentionBatch(2, ints[0], lengths, *(device.upload(x, "test") for x in ints))
    expected = device.download(device.decoder_self_attention(q, kv, batch, scale=0.25))
    before = device.arena.stats().used_bytes
    device.arena.reset_peak()
    result = device._decoder_self_attention(q, kv, batch, scale=0.25)
    taken = device.arena.stats().peak_bytes - before
    np.testing.assert_allclose(device.download(result), expected, rtol=1e-5, atol=1e-6)
    assert taken >= q.nbytes + 2 * 2 * 3 * (16 + 2) * dtypes.float32.itemsize


@pytest.mark.parametrize("logit", [np.nan, np.inf])
def test_logits_that_are_no_distribution_are_the_definitions_error(device: LazyKernelsDevice, logit: float) -> None:
    logits, ones = np.zeros((2, 5), np.float32), np.ones(2, np.float32)
    logits[1, 3] = logit
    filters = {"temperature": 0 * ones, "top_k": np.zeros(2, np.int64), "top_p": ones, "min_p": 0 * ones}
    with pytest.raises(DeviceError, match=f"the largest logit is {logit}.*row 1"):
        device._sample(device.upload(logits, "logits"), **filters, uniforms=np.zeros(2))


@pytest.mark.parametrize(
    ("op", "dims", "reason"),
    [
        ("add_norm", {"hidden_size": 40000}, "a row of 40000 elements is wider than 32768"),
        ("context_attention", {"head_dim": 8}, "heads of 8 elements: its tiles are for 9 to 256"),
        ("decoder_self_attention", {"head_dim": 320}, "heads of 320 elements: its tiles are for 9 to 256"),
    ],
)
def test_a_kernel_says_why_it_does_not_serve(op: str, dims: dict[str, int], reason: str) -> None:
    (override,) = (override for override in LazyKernelsDevice.overrides if override.op == op)
    assert override.when is not None
    assert getattr(override.when(Signature(op, "decode", "float32", dims=dims)), "reason", "") == reason
