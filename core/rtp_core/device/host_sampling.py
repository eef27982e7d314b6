"""What the op `sample` means, in NumPy; and log probabilities of tokens.

It runs on the host after one copy of the logits. It draws nothing: uniforms come from the caller.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rtp_core.errors import DeviceError

_HEAD = 1024  # tokens sorted at first; the inverse CDF seldom looks past them
_GROWTH = 8

Logits = NDArray[np.float32]
Logprobs = NDArray[np.float32]
Ids = NDArray[np.int64]


def sample(
    logits: Logits,
    *,
    temperature: NDArray[np.float32],
    top_k: NDArray[np.integer],
    top_p: NDArray[np.float32],
    min_p: NDArray[np.float32],
    uniforms: NDArray[np.float64],
) -> Ids:
    """Choose a token for every row. logits: [R, V]; the rest: [R]; returns [R].

    A row with temperature 0 is greedy: the largest logit, the lowest id on ties. In the others the filters
    apply in this order, each to what the one before has left, renormalised:
    1. logits / temperature, softmax;
    2. top_k: the k most probable tokens (0: all);
    3. top_p: the fewest most probable tokens whose mass reaches top_p, at least one;
    4. min_p: tokens at least min_p times as probable as the most probable one.
    The rest, ordered by probability (equal ones by id), is a CDF: the token is where it passes the uniform.

    A logit of -inf is never chosen. Raises DeviceError for a row with NaN, +inf, or nothing but -inf.
    """
    chosen: Ids = logits.argmax(axis=-1).astype(np.int64)
    peaks = logits[np.arange(len(logits)), chosen]  # argmax points at a NaN where there is one
    _check_peaks(peaks)
    for row in np.flatnonzero(temperature > 0):
        chosen[row] = _draw(
            logits[row],
            float(peaks[row]),
            float(temperature[row]),
            top_k=int(top_k[row]),
            top_p=float(top_p[row]),
            min_p=float(min_p[row]),
            uniform=float(uniforms[row]),
        )
    return chosen


def log_softmax(logits: Logits) -> Logprobs:
    """Natural log probabilities. logits, result: [R, V]. Raises DeviceError as `sample` does."""
    result = np.empty_like(logits)
    for row, mass in enumerate(_log_mass(logits)):
        result[row] = logits[row] - mass
    return result


def token_logprobs(logits: Logits, token_ids: Ids, num_top: int) -> tuple[Logprobs, Ids, Logprobs]:
    """Natural log probabilities of given tokens and of the most probable ones.

    logits: [R, V]; token_ids: [R]. Returns the tokens' own [R], and ids and log probabilities of the top
    k = min(num_top, V), most probable first, equal ones by id: [R, k] each. Raises DeviceError as `sample` does.
    """
    mass = _log_mass(logits)
    rows = np.arange(len(logits))
    own = (logits[rows, token_ids] - mass).astype(np.float32)
    top_ids = np.empty((len(logits), min(num_top, logits.shape[1])), np.int64)
    if top_ids.shape[1]:
        for row in rows:
            top_ids[row] = _top_ids(logits[row], num_top)
    top = (logits[rows[:, None], top_ids] - mass[:, None]).astype(np.float32)
    return own, top_ids, top


def _draw(
    logits: Logits, peak: float, temperature: float, *, top_k: int, top_p: float, min_p: float, uniform: float
) -> int:
    """One token of one row [V]. Every filter keeps a head of the descending order: grow it until it decides."""
    limit = min(top_k, len(logits)) if top_k > 0 else len(logits)
    size = limit if limit < len(logits) else min(_HEAD, limit)
    total = None
    while True:
        ids = _top_ids(logits, size)
        weights = _weights(logits[ids], peak, temperature)
        cdf = weights.cumsum()
        if size == limit:
            total = float(cdf[-1])
        elif total is None:
            total = _total_weight(logits, peak, temperature)
        kept = int(np.count_nonzero(weights >= min_p))
        if top_p < 1.0:
            kept = min(kept, int(cdf.searchsorted(top_p * total)) + 1)
        # A head that no filter cuts goes on past what we see, unless it is all there is.
        mass = float(cdf[kept - 1]) if kept < size or size == limit else total
        is_cut = kept < size or size == limit or (top_p >= 1.0 and min_p == 0.0)
        index = int(cdf.searchsorted(uniform * mass, side="right"))
        if is_cut and (index < size or size == limit):
            return int(ids[min(index, kept - 1)])
        size = min(size * _GROWTH, limit)


def _weights(logits: Logits, peak: float, temperature: float) -> NDArray[np.float64]:
    """Probabilities relative to the largest one. The peak comes off first: no temperature overflows."""
    weights: NDArray[np.float64] = np.exp((logits.astype(np.float64) - peak) / temperature)
    return weights


def _total_weight(logits: Logits, peak: float, temperature: float) -> float:
    """The sum of all weights of a row [V]: terms in float32, five times as fast, and the sum in float64."""
    with np.errstate(over="ignore"):  # far below the peak, at a tiny temperature: exp(-inf) is right
        exponents = (logits - np.float32(peak)) / np.float32(temperature)
    return float(np.exp(exponents).sum(dtype=np.float64))


def _top_ids(logits: Logits, count: int) -> Ids:
    """The ids of the `count` largest of [V], in descending order, equal ones by id: [min(count, V)]."""
    if count >= len(logits):
        return np.argsort(-logits, kind="stable")
    border = len(logits) - count
    threshold = np.partition(logits, border)[border]
    above = np.flatnonzero(logits > threshold)
    # A partition takes any of the ties at the threshold; the definition takes the lowest ids.
    ties = np.flatnonzero(logits == threshold)[: count - len(above)]
    ids = np.concatenate((above, ties))
    return ids[np.argsort(-logits[ids], kind="stable")]


def _log_mass(logits: Logits) -> NDArray[np.float64]:
    """log(sum(exp(logits))) of every row [R], summed in float64. Row by row: the scratch stays in cache."""
    peaks = logits.max(axis=-1)
    _check_peaks(peaks)
    mass = [np.exp(row - peak).sum(dtype=np.float64) for row, peak in zip(logits, peaks, strict=True)]
    return np.asarray(peaks + np.log(np.array(mass, np.float64)))


def _check_peaks(peaks: NDArray[np.float32]) -> None:
    """A row's largest logit is finite, unless it has NaN, +inf or nothing but -inf."""
    if not np.isfinite(peaks).all():
        row = int(np.flatnonzero(~np.isfinite(peaks))[0])
        raise DeviceError(f"the largest logit is {peaks[row]}", where=f"row {row}", why="expected a finite number")
