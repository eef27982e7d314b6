from __future__ import annotations

import numpy as np
import pytest
import torch
from kernel_oracle import FLOATS, TORCH, assert_close, ints, lent, put, room, rounded

from rtp_core.device.reference import ReferenceDevice
from rtp_core.plugin import DType, dtypes
from rtp_torch.kernels.grouped_gemm import are_alike, grouped_gemm, tile_of, weight_addresses

f32, f16 = dtypes.float32, dtypes.float16
SIZES = {
    "one row": [1],
    "one group": [20],
    "some empty": [0, 5, 0, 17, 0],
    "borders inside of tiles": [33, 1, 31, 64],
    "many small": [1] * 6,
}


def weights_of(arrays: list[np.ndarray], dtype: DType) -> list[torch.Tensor]:
    """In the middle of wider rows: no weight starts at a multiple of 16 bytes."""
    return [torch.from_numpy(np.pad(w, ((0, 0), (1, 6)))).to(TORCH[dtype])[:, 1:-6] for w in arrays]


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("dtypes_of", [(t, t) for t in FLOATS] + [(f32, f16)], ids=str)
def test_rows_times_their_groups_weight(
    ref: ReferenceDevice, rng: np.random.Generator, sizes: list[int], dtypes_of: tuple[DType, DType]
) -> None:
    dtype, weight_dtype = dtypes_of
    rows, width, columns = sum(sizes), 50, 70
    x = rounded(rng.standard_normal((rows, width)) / 8, dtype)
    arrays = [rounded(rng.standard_normal((columns, width)), weight_dtype) for _ in sizes]
    weights = weights_of(arrays, weight_dtype)
    out = room((rows, columns), dtype)
    starts = ints(np.concatenate([[0], np.cumsum(sizes)]))
    grouped_gemm(put(x, dtype), weights, torch.from_numpy(weight_addresses(weights)), starts, out=out)
    expected = ref.grouped_gemm(lent(ref, x), tuple(lent(ref, w) for w in arrays), tuple(sizes))
    assert_close(out, expected, dtype)


def test_sizes_are_read_by_the_kernel(ref: ReferenceDevice, rng: np.random.Generator) -> None:
    arrays = [rng.standard_normal((8, 16)).astype(np.float32) for _ in range(2)]
    weights, x = weights_of(arrays, f32), rng.standard_normal((40, 16)).astype(np.float32)
    addresses, starts = torch.from_numpy(weight_addresses(weights)), ints([0, 0, 40])
    for sizes in ((40, 0), (3, 37)):
        starts[1] = sizes[0]
        out = room((40, 8), f32)
        grouped_gemm(put(x, f32), weights, addresses, starts, out=out)
        assert_close(out, ref.grouped_gemm(lent(ref, x), tuple(lent(ref, w) for w in arrays), sizes), f32, scale=4)


def test_weights_are_alike_in_all_that_the_kernel_is_told_of_the_first() -> None:
    first = torch.zeros(4, 8)
    assert are_alike([first, torch.ones(4, 8)])
    for other in (torch.zeros(4, 9), torch.zeros(4, 9)[:, :8], first.half()):
        assert not are_alike([first, other])


def test_tiles_follow_the_average_group() -> None:
    assert tile_of(8, 8, 2, narrow=False).rows == 16
    assert tile_of(256, 8, 2, narrow=False).rows == 32
    assert tile_of(2048, 8, 2, narrow=False).rows == 64
    assert tile_of(2048, 8, 2, narrow=True).rows == 32
