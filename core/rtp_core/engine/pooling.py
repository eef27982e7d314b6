"""From the hidden states of a step to one embedding per request, all of them at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rtp_core.checkpoint.embedding_config import EmbeddingConfig

_LEAST_NORM = 1e-12  # as torch.nn.functional.normalize

Floats = NDArray[np.float32]


def pool(hidden: Floats, lengths: Sequence[int], config: EmbeddingConfig) -> Floats:
    """Embeddings [R, E x modes]. hidden: [T, E] of requests one after the other; lengths [R] sum to T, none is 0."""
    counts = np.array(lengths)
    starts = np.cumsum(counts) - counts
    parts = [_pooled(mode, hidden, starts, counts) for mode in config.pooling]
    embeddings = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    if config.normalize:
        norms = np.sqrt(np.einsum("re,re->r", embeddings, embeddings))
        embeddings = embeddings / np.maximum(norms, np.float32(_LEAST_NORM))[:, None]
    return embeddings


def _pooled(mode: str, hidden: Floats, starts: NDArray[np.int64], counts: NDArray[np.int64]) -> Floats:
    result: Floats
    match mode:
        case "cls":
            result = hidden[starts]
        case "max":
            result = np.maximum.reduceat(hidden, starts)
        case "mean":
            result = np.add.reduceat(hidden, starts) / counts.astype(np.float32)[:, None]
        case _:  # mean_sqrt_len_tokens
            result = np.add.reduceat(hidden, starts) / np.sqrt(counts.astype(np.float32))[:, None]
    return result
