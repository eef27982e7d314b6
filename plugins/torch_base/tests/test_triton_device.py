"""Kernels as overrides, where the sizes of conformance do not lead."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from lazy_device import LazyKernelsDevice, open_device

from rtp_core.plugin import AttentionBatch, Buffer, DeviceError, DType, Signature, dtypes

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


@pytest.mark.parametrize("wrong", ["a group too few", "a row too many", "x", "out"])
def test_groups_that_do_not_fit_are_one_clear_error(device: LazyKernelsDevice, wrong: str) -> None:
    def room(*shape: int) -> Buffer:
        return device.alloc(shape, dtypes.float32, "room")

    sizes = {"a group too few": (5,), "a row too many": (2, 4)}.get(wrong, (2, 3))
    x, out, weights = room(5, 8 - (wrong == "x")), room(5, 4 - (wrong == "out")), (room(4, 8), room(4, 8))
    with pytest.raises(DeviceError, match=r"grouped_gemm of groups of .* cannot take these operands: got Buffer\(5x"):
        device._grouped_gemm(x, weights, sizes, out=out)


@pytest.mark.parametrize("second", [(dtypes.float16, 8), (dtypes.float32, 9)])
def test_weights_that_are_not_alike_are_multiplied_one_by_one(
    device: LazyKernelsDevice, second: tuple[DType, int]
) -> None:
    (dtype, width), rng = second, np.random.default_rng(2)
    x, first, other = (rng.standard_normal(shape).astype(np.float32) for shape in ((5, 8), (4, 8), (4, 8)))
    other = other.astype(dtype.numpy)
    wide = device.upload(np.pad(other, ((0, 0), (0, width - 8))), "weight")[:, :8]
    product = device._grouped_gemm(device.upload(x, "x"), (device.upload(first, "weight"), wide), (2, 3))
    expected = np.concatenate([x[:2] @ first.T, x[2:] @ other.astype(np.float32).T])
    np.testing.assert_allclose(device.download(product), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("logit", [np.nan, np.inf])
def test_logits_that_are_no_distribution_are_the_definitions_error(device: LazyKernelsDevice, logit: float) -> None:
    logits, ones = np.zeros((2, 5), np.float32), np.ones(2, np.float32)
    logits[1, 3] = logit
    filters = {"temperature": 0 * ones, "top_k": np.zeros(2, np.int64), "top_p": ones, "min_p": 0 * ones}
    with pytest.raises(DeviceError, match=f"the largest logit is {logit}.*row 1"):
        device._sample(device.upload(logits, "logits"), **filters, uniforms=np.zeros(2))


def test_groups_of_quantized_weights_are_products_of_their_own() -> None:
    (override,) = (override for override in LazyKernelsDevice.overrides if override.op == "grouped_gemm")
    assert override.when is not None
    refusal = override.when(Signature("grouped_gemm", "decode", "float32", scheme="q8_0"))
    assert getattr(refusal, "reason", "") == "its weights are q8_0: each group is a product of its own"


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
