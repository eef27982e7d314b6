"""The running softmax of attention over blocked KV: a peak, a mass and a weighted sum of values for each query row.

Source: arXiv:2205.14135 (FlashAttention), algorithm 1. Scores are in powers of two: callers scale by LOG2E.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl

LOG2E = math.log2(math.e)


@triton.jit
def begin(ROWS: tl.constexpr, DIMS: tl.constexpr):
    """(peak, mass, total) of nothing seen."""
    peak = tl.full([ROWS], -float("inf"), tl.float32)
    return peak, tl.zeros([ROWS], tl.float32), tl.zeros([ROWS, DIMS], tl.float32)


@triton.jit
def tokens_at(tokens, is_seen, table_ptr, kv_block, kv_token, BLOCK_SIZE: tl.constexpr):
    """How far tokens lie from the start of the cache, through a request's block table."""
    blocks = tl.load(table_ptr + tokens // BLOCK_SIZE, mask=is_seen, other=0)
    return blocks.to(tl.int64) * kv_block + (tokens % BLOCK_SIZE) * kv_token


@triton.jit
def scores_seen(q, k, scale, is_seen):
    """q [ROWS, D] times k [TILE, D], -inf where nothing is to be seen."""
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    return tl.where(is_seen, scores, -float("inf"))


@triton.jit
def update(scores, v, peak, mass, total):
    """One tile more. scores: [ROWS, TILE]; v: [TILE, D]."""
    new_peak = tl.maximum(peak, tl.max(scores, 1))
    base = tl.where(new_peak == -float("inf"), 0.0, new_peak)  # of rows that have seen nothing yet
    weights = tl.exp2(scores - base[:, None])
    shrink = tl.exp2(peak - base)
    total = tl.dot(weights.to(v.dtype), v, total * shrink[:, None], input_precision="ieee")
    return new_peak, mass * shrink + tl.sum(weights, 1), total


@triton.jit
def end(mass, total):
    """total / mass, zeros where nothing was seen. mass: total's leading axes."""
    mass = tl.where(mass == 0.0, 1.0, mass)
    if len(total.shape) == 2:
        mass = mass[:, None]
    return total / mass
