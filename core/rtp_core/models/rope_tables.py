"""Rotary angles by position, with the stretches that long-context models ask for."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from rtp_core.config import ModelConfig, RopeScaling


def rope_tables(
    config: ModelConfig, num_positions: int, factors: NDArray[np.float32] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """cos and sin [num_positions, head_dim / 2], computed in float64. `factors` [head_dim / 2] divide frequencies."""
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim
    frequencies = config.rope_theta**-exponents
    if factors is not None:
        frequencies = frequencies / factors
    elif config.rope_scaling is not None:
        frequencies = _scaled(frequencies, config.rope_scaling)
    angles = np.arange(num_positions, dtype=np.float64)[:, None] * frequencies
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _scaled(frequencies: NDArray[np.float64], scaling: RopeScaling) -> NDArray[np.float64]:
    """Source: Hugging Face transformers' definitions of rope types "linear" (arXiv:2306.15595) and "llama3"."""
    if scaling.rope_type == "linear":
        return frequencies / scaling.factor
    if scaling.rope_type != "llama3":
        return frequencies
    low, high, original = scaling.low_freq_factor, scaling.high_freq_factor, scaling.original_max_position_embeddings
    assert low is not None and high is not None and original is not None
    turns = original * frequencies / (2 * math.pi)  # full turns over the original context
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return frequencies * (smooth + (1 - smooth) / scaling.factor)
