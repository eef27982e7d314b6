from __future__ import annotations

import numpy as np
import pytest
import torch
from kernel_oracle import put

from rtp_core.device import host_sampling
from rtp_core.plugin import dtypes
from rtp_torch.kernels import sample
from rtp_torch.kernels.tile import Tile

FEW_PASSES = Tile(64, 256, 1)  # an interpreter minds passes, not their width
NO_FILTER = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
FILTERS = {
    "none": NO_FILTER,
    "top_k": {**NO_FILTER, "top_k": 5},
    "top_k of one": {**NO_FILTER, "top_k": 1},
    "top_k of more than there are": {**NO_FILTER, "top_k": 1 << 40},
    "top_p": {**NO_FILTER, "top_p": 0.7},
    "top_p of nothing": {**NO_FILTER, "top_p": 0.0},
    "min_p": {**NO_FILTER, "min_p": 0.2},
    "min_p of one": {**NO_FILTER, "min_p": 1.0},
    "all": {"top_k": 40, "top_p": 0.9, "min_p": 0.01},
}


def greedy(logits: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    rows, tiles = len(logits), sample.num_tiles(logits.shape[1])
    peaks, ids = torch.full((rows,), torch.nan), torch.full((rows,), -1, dtype=torch.int32)
    work = {"tile_peaks": torch.empty(rows, tiles), "tile_ids": torch.empty(rows, tiles, dtype=torch.int32)}
    sample.argmax(put(logits, dtypes.float32), **work, peaks=peaks, ids=ids)
    return peaks, ids


def assert_drawn_alike(
    logits: np.ndarray,
    temperature: np.ndarray,
    filters: dict[str, float],
    uniforms: np.ndarray,
    tile: Tile = FEW_PASSES,
) -> None:
    rows = len(logits)
    given = {
        "temperature": np.asarray(temperature, np.float32),
        "top_k": np.full(rows, filters["top_k"], np.int64),
        "top_p": np.full(rows, filters["top_p"], np.float32),
        "min_p": np.full(rows, filters["min_p"], np.float32),
        "uniforms": np.asarray(uniforms, np.float64),
    }
    peaks, ids = greedy(logits)
    tensors = {name: torch.from_numpy(x) for name, x in given.items()}
    sample.draw(put(logits, dtypes.float32), peaks, ids, **tensors, tile=tile)
    np.testing.assert_array_equal(ids.numpy(), host_sampling.sample(logits, **given))


@pytest.mark.parametrize("filters", FILTERS.values(), ids=FILTERS)
@pytest.mark.parametrize("vocabulary", [1, 250])
def test_draws_are_the_definitions(rng: np.random.Generator, vocabulary: int, filters: dict[str, float]) -> None:
    rows = 4
    logits = (3 * rng.standard_normal((rows, vocabulary))).astype(np.float32)
    assert_drawn_alike(logits, np.array([0, 0.3, 1, 4]), filters, rng.random(rows))


def test_tiles_change_nothing(rng: np.random.Generator) -> None:
    logits = (3 * rng.standard_normal((2, 1100))).astype(np.float32)
    assert_drawn_alike(logits, np.ones(2), FILTERS["all"], rng.random(2), sample.DRAW_TILE)


@pytest.mark.parametrize("filters", FILTERS.values(), ids=FILTERS)
def test_equal_logits_are_drawn_by_id(rng: np.random.Generator, filters: dict[str, float]) -> None:
    """Whole numbers tie often, both zeros too; masked tokens are never drawn."""
    rows = 4
    logits = np.rint(2 * rng.standard_normal((rows, 200))).astype(np.float32)
    logits[:, ::7] = -np.inf
    logits[0], logits[1, 0] = 0, -0.0
    assert_drawn_alike(logits, np.full(rows, 0.8), filters, np.linspace(0, 1 - 2**-53, rows))


def test_a_border_that_is_hit_exactly() -> None:
    """Two equal tokens: half of the mass is one of them for top_p, and the other one's turn for a uniform."""
    logits = np.zeros((2, 2), np.float32)
    assert_drawn_alike(logits, np.ones(2), {**NO_FILTER, "top_p": 0.5}, np.array([0.5, 0.99]))
    assert_drawn_alike(logits, np.ones(2), NO_FILTER, np.array([0.5, np.nextafter(0.5, 0)]))


def test_extreme_temperatures() -> None:
    logits = np.array([[1, 5, 4.999, -3e38], [1, 5, 5, -np.inf]], np.float32)
    for temperature in (1e-30, 1e-3, 1e30):
        assert_drawn_alike(logits, np.full(2, temperature), NO_FILTER, np.array([0.6, 0.6]))


@pytest.mark.parametrize("vocabulary", [1, 4096, 9000])
def test_greedy_rows_take_the_first_of_the_largest(rng: np.random.Generator, vocabulary: int) -> None:
    logits = np.rint(2 * rng.standard_normal((4, vocabulary))).astype(np.float32)
    logits[0], logits[1, : vocabulary // 2] = 0, -np.inf
    peaks, ids = greedy(logits)
    np.testing.assert_array_equal(ids.numpy(), logits.argmax(axis=1))
    np.testing.assert_array_equal(peaks.numpy(), logits.max(axis=1))


def test_rows_without_a_distribution_show_in_their_peaks() -> None:
    logits = np.zeros((4, 5000), np.float32)
    logits[0, 4500], logits[1, 3], logits[2] = np.nan, np.inf, -np.inf
    peaks, _ = greedy(logits)
    np.testing.assert_array_equal(peaks.numpy(), np.array([np.nan, np.inf, -np.inf, 0], np.float32))


def test_no_rows_are_no_launch() -> None:
    nothing = np.zeros((0, 5), np.float32)
    assert_drawn_alike(nothing, np.zeros(0), NO_FILTER, np.zeros(0))
