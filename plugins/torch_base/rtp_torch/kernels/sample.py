"""The most probable token of each row, and one drawn by core's uniform after its filters, without sorting.

The definition is host_sampling.sample of rtp-core. It orders tokens by logit, equal ones by id; here each token has a
place, one whole number of both, and every filter keeps the tokens from some place up. Such a place is found by counting
or by adding up weights, for several places in each pass over the row.

Weights are float32, their sums float64, in a fixed order: a draw differs from the definition's only where its uniform
lies within about 1e-6 of a border between two tokens.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from rtp_torch.kernels.tile import Tile

PEAK_TILE = Tile(1, 4096, 4)
DRAW_TILE = Tile(4, 1024, 8)  # rows are places looked at in one pass, columns tokens


def num_tiles(vocabulary: int) -> int:
    """Columns of work space that `argmax` wants."""
    return triton.cdiv(vocabulary, PEAK_TILE.columns)


def argmax(logits: Tensor, *, tile_peaks: Tensor, tile_ids: Tensor, peaks: Tensor, ids: Tensor) -> None:
    """peaks[r], ids[r]: the largest logit of row r and where it comes first; NaN where the row has one.

    logits: [R, V] float32, rows any stride apart; peaks: [R] float32; ids: [R] int32; tile_peaks and tile_ids: work
    space [R, num_tiles], of the same types.
    """
    rows, vocabulary = logits.shape
    tiles = num_tiles(vocabulary)
    if not rows:
        return
    _tile_peaks[(rows, tiles)](
        logits, tile_peaks, tile_ids, vocabulary, logits.stride(0), COLUMNS=PEAK_TILE.columns, **PEAK_TILE.options
    )
    _row_peaks[(rows,)](
        tile_peaks, tile_ids, peaks, ids, tiles, COLUMNS=triton.next_power_of_2(tiles), **Tile(1, tiles, 1).options
    )


def draw(
    logits: Tensor,
    peaks: Tensor,
    ids: Tensor,
    *,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    uniforms: Tensor,
    tile: Tile = DRAW_TILE,
) -> None:
    """ids[r]: a token drawn from row r, where its temperature is not 0 and its peak is finite.

    peaks, ids: those of `argmax`. temperature, top_p, min_p: [R] float32; top_k: [R] int64; uniforms: [R] float64.
    A row whose peak is not finite has no distribution: it is for the caller to refuse it.
    """
    rows, vocabulary = logits.shape
    if not rows:
        return
    _draw[(rows,)](
        logits, peaks, ids, temperature, top_k, top_p, min_p, uniforms, vocabulary, logits.stride(0),
        ID_BITS=max(1, (vocabulary - 1).bit_length()), PLACES=tile.rows, COLUMNS=tile.columns, **tile.options,
    )  # fmt: skip


@triton.jit
def _tile_peaks(logits_ptr, peaks_ptr, ids_ptr, vocabulary, logits_row, COLUMNS: tl.constexpr):
    row, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    ids = tile * COLUMNS + tl.arange(0, COLUMNS)
    logits = tl.load(logits_ptr + row * logits_row + ids, mask=ids < vocabulary, other=-float("inf"))
    peak, place = _peak(logits)
    tl.store(peaks_ptr + row * tl.num_programs(1) + tile, peak)
    tl.store(ids_ptr + row * tl.num_programs(1) + tile, tile * COLUMNS + place)


@triton.jit
def _row_peaks(tile_peaks_ptr, tile_ids_ptr, peaks_ptr, ids_ptr, num_tiles, COLUMNS: tl.constexpr):
    row, tiles = tl.program_id(0).to(tl.int64), tl.arange(0, COLUMNS)
    peaks = tl.load(tile_peaks_ptr + row * num_tiles + tiles, mask=tiles < num_tiles, other=-float("inf"))
    peak, place = _peak(peaks)
    tl.store(peaks_ptr + row, peak)
    tl.store(ids_ptr + row, tl.load(tile_ids_ptr + row * num_tiles + place))


@triton.jit
def _peak(x):
    """(largest, where it comes first), or NaN where there is one."""
    is_nan = x != x
    ordered = tl.where(is_nan, float("inf"), x)
    peak, place = tl.max(ordered, 0, return_indices=True, return_indices_tie_break_left=True)
    return tl.where(tl.max(is_nan.to(tl.int32), 0) > 0, float("nan"), peak), place


@triton.jit
def _draw(
    logits_ptr, peaks_ptr, ids_ptr, temperature_ptr, top_k_ptr, top_p_ptr, min_p_ptr, uniforms_ptr,
    vocabulary, logits_row, ID_BITS: tl.constexpr, PLACES: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One row, in one program."""
    number = tl.program_id(0)
    peak, temperature = tl.load(peaks_ptr + number), tl.load(temperature_ptr + number)
    if temperature > 0 and tl.abs(peak) < float("inf"):
        row = (logits_ptr + number.to(tl.int64) * logits_row, vocabulary, peak, temperature)
        top_k, top_p, min_p = tl.load(top_k_ptr + number), tl.load(top_p_ptr + number), tl.load(min_p_ptr + number)
        above = _place(peak, tl.load(ids_ptr + number), ID_BITS) + 1  # every token's place
        last = above - (1 << (32 + ID_BITS))  # below every token's place
        if top_k > 0:
            count = tl.minimum(top_k, vocabulary).to(tl.float64)
            last = _find(row, 0.0, last, above, count, True, False, ID_BITS, PLACES, COLUMNS)
        if top_p < 1:
            mass = top_p.to(tl.float64) * _mass(row, 0.0, last, ID_BITS, PLACES, COLUMNS)
            last = _find(row, 0.0, last, above, mass, False, False, ID_BITS, PLACES, COLUMNS)
        mass = tl.load(uniforms_ptr + number) * _mass(row, min_p, last, ID_BITS, PLACES, COLUMNS)
        last = _find(row, min_p, last, above, mass, False, True, ID_BITS, PLACES, COLUMNS)
        tl.store(ids_ptr + number, ((1 << ID_BITS) - 1 - (last & ((1 << ID_BITS) - 1))).to(tl.int32))


@triton.jit
def _place(logit, token, ID_BITS: tl.constexpr):
    """The larger the logit and then the lower the id, the higher. Both zeros are one number."""
    bits = tl.where(logit == 0, 0.0, logit).to(tl.int32, bitcast=True)
    order = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.int64)
    return (order << ID_BITS) + ((1 << ID_BITS) - 1 - token)


@triton.jit
def _find(
    row, min_p, low, high, target, BY_COUNT: tl.constexpr, IS_PASSED: tl.constexpr,
    ID_BITS: tl.constexpr, PLACES: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The highest place in [low, high) from which up the sum reaches, or passes, `target`: it does from low up."""
    while high - low > 1:
        places = low + (high - low) * (tl.arange(0, PLACES) + 1) // (PLACES + 1)
        sums = _sums(row, min_p, places, BY_COUNT, ID_BITS, PLACES, COLUMNS)
        is_enough = sums > target if IS_PASSED else sums >= target
        high = tl.min(tl.where(is_enough, high, places), 0)
        low = tl.max(tl.where(is_enough, places, low), 0)
    return low


@triton.jit
def _mass(row, min_p, place, ID_BITS: tl.constexpr, PLACES: tl.constexpr, COLUMNS: tl.constexpr):
    """From `place` up."""
    places = place + tl.zeros([PLACES], tl.int64)
    return tl.max(_sums(row, min_p, places, False, ID_BITS, PLACES, COLUMNS), 0)


@triton.jit
def _sums(
    row, min_p, places, BY_COUNT: tl.constexpr, ID_BITS: tl.constexpr, PLACES: tl.constexpr, COLUMNS: tl.constexpr
):
    """From each of `places` up the weights, or the number, of tokens that weigh min_p or more: [PLACES] float64."""
    logits_ptr, vocabulary, peak, temperature = row
    total = tl.zeros([PLACES, COLUMNS], tl.float64)
    for begins in range(0, vocabulary, COLUMNS):
        tokens = begins + tl.arange(0, COLUMNS)
        logits = tl.load(logits_ptr + tokens, mask=tokens < vocabulary, other=-float("inf"))
        weights = tl.exp((logits - peak) / temperature)
        is_kept = (tokens < vocabulary) & (weights >= min_p)
        is_kept = is_kept[None, :] & (_place(logits, tokens, ID_BITS)[None, :] >= places[:, None])
        numbers = tl.full([COLUMNS], 1.0, tl.float32) if BY_COUNT else weights
        total += tl.where(is_kept, numbers[None, :].to(tl.float64), 0.0)
    return tl.sum(total, 1)
