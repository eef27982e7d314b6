from __future__ import annotations

import numpy as np
import pytest
import torch
from kernel_oracle import FLOATS, TORCH, assert_close, caches, ints, lent, put, rounded, step_of

from rtp_core.device.reference import ReferenceDevice
from rtp_core.plugin import AttentionWeights, Buffer, DType, RopeTables, dtypes
from rtp_torch.kernels.rope_kv_write import rope_kv_write, tile_of

f32 = dtypes.float32


def weights_of(
    ref: ReferenceDevice, heads: int, kv_heads: int, dim: int, angles: np.ndarray | None
) -> AttentionWeights:
    """Of which the op only looks at the tables."""
    tables = None if angles is None else RopeTables(lent(ref, np.cos(angles)), lent(ref, np.sin(angles)))
    nothing: Buffer = lent(ref, np.zeros(1))
    return AttentionWeights((), nothing, heads, kv_heads, dim, tables)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("order", ["KBD", "BKD"])
@pytest.mark.parametrize(  # heads, kv_heads, head_dim, pairs
    "shape", [(1, 1, 64, 32), (14, 2, 80, 40), (8, 8, 128, 16), (3, 3, 7, 2), (4, 2, 64, 0)]
)
def test_rotated_and_stored(
    ref: ReferenceDevice, rng: np.random.Generator, shape: tuple[int, int, int, int], order: str, dtype: DType
) -> None:
    heads, kv_heads, dim, pairs = shape
    step = step_of(ref, [1, 7], [9, 7], 1, 4)
    tokens = len(step.slots)
    q, k, v = (rounded(rng.standard_normal((tokens, n, dim)), dtype) for n in (heads, kv_heads, kv_heads))
    angles = rng.uniform(0, 6, (9, pairs)).astype(np.float32) if pairs else None
    ours, theirs = caches(ref, 6, kv_heads, 4, dim, dtype, order)
    lent_q, lent_k = lent(ref, q), lent(ref, k)
    ref.rope_kv_write(lent_q, lent_k, lent(ref, v), theirs, weights_of(ref, heads, kv_heads, dim, angles), step.batch)

    put_q, put_k = put(q, dtype), put(k, dtype)
    tables = None if angles is None else (put(np.cos(angles), f32), put(np.sin(angles), f32))
    rope_kv_write(put_q, put_k, put(v, dtype), ours, step.slots, step.positions, tables)
    assert_close(put_q, lent_q, dtype)
    assert_close(put_k, lent_k, dtype)
    assert_close(ours, theirs, dtype)


def test_a_negative_slot_is_no_place(ref: ReferenceDevice, rng: np.random.Generator) -> None:
    kv = torch.zeros(2, 2, 1, 4, 8)
    k, v = (put(rng.standard_normal((2, 1, 8)), f32) for _ in range(2))
    rope_kv_write(k.clone(), k, v, kv, ints([-1, 5]), ints([0, 0]), None)
    stored = kv[1, :, 0, 1].clone()
    kv[1, :, 0, 1] = 0
    assert torch.equal(stored, torch.cat([k[1], v[1]])) and not kv.any()


def test_a_cache_of_another_dtype_holds_what_was_rotated(ref: ReferenceDevice, rng: np.random.Generator) -> None:
    kv = torch.zeros(1, 2, 1, 4, 8, dtype=TORCH[dtypes.float16])
    k = put(rng.standard_normal((1, 1, 8)), f32)
    angles = rng.uniform(0, 6, (3, 4))
    rope_kv_write(
        k.clone(), k, k.clone(), kv, ints([2]), ints([1]), (put(np.cos(angles), f32), put(np.sin(angles), f32))
    )
    assert torch.equal(kv[0, 0, :, 2], k[0].half())


def test_heads_of_a_program() -> None:
    assert tile_of(28, 128)[:2] == (8, 128)
    assert tile_of(2, 64)[:2] == (2, 64)
    assert tile_of(4, 2048)[:2] == (1, 2048)
