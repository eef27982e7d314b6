from __future__ import annotations

import numpy as np
import pytest
import torch
from kernel_oracle import FLOATS, Step, assert_close, caches, fill, lent, put, room, rounded, step_of
from torch import Tensor

from rtp_core.device.reference import ReferenceDevice
from rtp_core.plugin import DType, dtypes
from rtp_torch.kernels import context_attention, decode_attention

SCALE = 0.3
f32 = dtypes.float32


def decoded(q: Tensor, kv: Tensor, step: Step, splits: int, dtype: DType) -> Tensor:
    requests, heads, dim = q.shape
    out = room(q.shape, dtype)
    scratch = torch.full((decode_attention.scratch_size(requests, heads, dim, splits),), torch.nan)
    decode_attention.decoder_self_attention(
        q, kv, step.block_tables[:requests], step.context_lens[:requests],
        scale=SCALE, splits=splits, scratch=scratch, out=out,
    )  # fmt: skip
    return out


def prefilled(q: Tensor, kv: Tensor, step: Step, dtype: DType) -> Tensor:
    first, out = step.batch.num_decode, room(q.shape, dtype)
    context_attention.context_attention(
        q, kv, step.block_tables[first:], step.context_lens[first:], step.query_starts[first:], scale=SCALE, out=out
    )
    return out


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("order, group, dim", [("KBD", 1, 64), ("BKD", 4, 80), ("KBD", 7, 128)])
def test_decode_over_blocks(
    ref: ReferenceDevice, rng: np.random.Generator, order: str, group: int, dim: int, dtype: DType, splits: int
) -> None:
    step = step_of(ref, [1, 1, 1], [1, 16, 131], 3, 16)
    kv = caches(ref, 27, 2, 16, dim, dtype, order)
    fill(ref, kv, step, rng)
    q = rounded(rng.standard_normal((3, 2 * group, dim)), dtype)
    expected = ref.decoder_self_attention(lent(ref, q), kv[1], step.batch, scale=SCALE)
    assert_close(decoded(put(q, dtype), kv[0], step, splits, dtype), expected, dtype)


@pytest.mark.parametrize("splits", [1, 4])
def test_decode_of_requests_without_tokens_is_zero(ref: ReferenceDevice, rng: np.random.Generator, splits: int) -> None:
    """Rows that fill a recorded batch up."""
    step = step_of(ref, [1, 0], [5, 0], 2, 4)
    kv = caches(ref, 4, 1, 4, 64, f32, "KBD")
    fill(ref, kv, step, rng)
    q = rng.standard_normal((2, 1, 64)).astype(np.float32)
    got = decoded(put(q, f32), kv[0], step, splits, f32)
    assert torch.isfinite(got[0]).all() and not got[1].any()


@pytest.mark.parametrize("splits", [1, 2])
def test_decode_over_a_cache_of_another_dtype(ref: ReferenceDevice, rng: np.random.Generator, splits: int) -> None:
    step = step_of(ref, [1], [70], 1, 32)
    kv = caches(ref, 3, 1, 32, 64, dtypes.float16, "KBD")
    fill(ref, kv, step, rng)
    q = rng.standard_normal((1, 2, 64)).astype(np.float32)
    expected = ref.decoder_self_attention(lent(ref, q), kv[1], step.batch, scale=SCALE)
    assert_close(decoded(put(q, f32), kv[0], step, splits, f32), expected, f32)


def test_what_is_not_finite_stays_in_its_row(ref: ReferenceDevice, rng: np.random.Generator) -> None:
    step = step_of(ref, [1, 1, 1], [9, 9, 9], 3, 4)
    kv = caches(ref, 9, 1, 4, 64, f32, "KBD")
    fill(ref, kv, step, rng)
    q = rng.standard_normal((3, 1, 64)).astype(np.float32)
    q[0, 0, 3], q[1, 0, 3] = np.nan, np.inf
    with np.errstate(invalid="ignore"):
        expected = ref.decoder_self_attention(lent(ref, q), kv[1], step.batch, scale=SCALE)
    assert_close(decoded(put(q, f32), kv[0], step, 2, f32), expected, f32)


def test_lengths_are_read_by_the_kernel(ref: ReferenceDevice, rng: np.random.Generator) -> None:
    """The same launch serves other lengths and tables: what a recorded graph does."""
    q = rng.standard_normal((2, 2, 64)).astype(np.float32)
    for contexts in ([40, 3], [7, 33]):
        step = step_of(ref, [1, 1], contexts, 2, 8)
        kv = caches(ref, 10, 1, 8, 64, f32, "BKD")
        fill(ref, kv, step, rng)
        expected = ref.decoder_self_attention(lent(ref, q), kv[1], step.batch, scale=SCALE)
        assert_close(decoded(put(q, f32), kv[0], step, 4, f32), expected, f32)


PREFILLS = {
    "one token": ([1], [1], 0),
    "a whole text": ([37], [37], 0),
    "after a prefix, on a border of blocks": ([16], [32], 0),
    "several, with decode requests before them": ([1, 1, 5, 40, 1], [9, 3, 21, 40, 17], 2),
    "one without a query": ([3, 0, 2], [3, 8, 2], 0),
}


@pytest.mark.parametrize("case", PREFILLS.values(), ids=PREFILLS)
@pytest.mark.parametrize("order, group, dim", [("KBD", 1, 80), ("BKD", 4, 64), ("BKD", 1, 128)])
def test_prefill_over_blocks(
    ref: ReferenceDevice,
    rng: np.random.Generator,
    order: str,
    group: int,
    dim: int,
    case: tuple[list[int], list[int], int],
) -> None:
    queries, contexts, num_decode = case
    step = step_of(ref, queries, contexts, num_decode, 16)
    kv = caches(ref, 20, 1, 16, dim, f32, order)
    fill(ref, kv, step, rng)
    q = rng.standard_normal((sum(queries[num_decode:]), group, dim)).astype(np.float32)
    expected = ref.context_attention(lent(ref, q), kv[1], step.batch, scale=SCALE)
    assert_close(prefilled(put(q, f32), kv[0], step, f32), expected, f32)


@pytest.mark.parametrize(
    "queries, dtype", [(20, f32), (70, f32), (300, dtypes.float16), (20, dtypes.bfloat16)], ids=str
)
def test_prefill_of_every_tile(ref: ReferenceDevice, rng: np.random.Generator, queries: int, dtype: DType) -> None:
    step = step_of(ref, [queries], [queries + 5], 0, 32)
    kv = caches(ref, 10, 1, 32, 64, dtype, "KBD")
    fill(ref, kv, step, rng)
    q = rounded(rng.standard_normal((queries, 1, 64)), dtype)
    expected = ref.context_attention(lent(ref, q), kv[1], step.batch, scale=SCALE)
    assert_close(prefilled(put(q, dtype), kv[0], step, dtype), expected, dtype)


def test_no_rows_are_no_launch(ref: ReferenceDevice) -> None:
    step = step_of(ref, [], [], 0, 4)
    kv, _ = caches(ref, 1, 1, 4, 64, f32, "KBD")
    nothing = put(np.zeros((0, 2, 64)), f32)
    assert decoded(nothing, kv, step, 1, f32).shape == prefilled(nothing, kv, step, f32).shape == (0, 2, 64)


def test_splits_are_as_many_as_pay() -> None:
    assert decode_attention.num_splits(1, 8, 100, 132) == 1  # too short to be cut
    assert decode_attention.num_splits(1, 8, 1 << 16, 132) == 33
    assert decode_attention.num_splits(64, 8, 1 << 16, 132) == 1  # enough to do for all
    assert decode_attention.num_splits(1, 1, 1 << 20, 132) == decode_attention.MAX_SPLITS
