"""From the hidden states of a step to one embedding per request."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from rtp_core.checkpoint.embedding_config import EmbeddingConfig

_LEAST_NORM = 1e-12  # as torch.nn.functional.normalize

Floats = NDArray[np.float32]


def pool(hidden: Floats, lengths: Sequence[int], config: EmbeddingConfig) -> Floats:
    """Embeddings [R, E x modes]. hidden: [T, E] of requests one after the other; lengths [R] sum to T, none is 0."""
    parts = [_pooled(mode, hidden, lengths) for mode in config.pooling]
    embeddings = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    if config.normalize:
        norms = np.sqrt(np.einsum("re,re->r", embeddings, embeddings))
        embeddings = embeddings / np.maximum(norms, np.float32(_LEAST_NORM))[:, None]
    return embeddings


def _pooled(mode: str, hidden: Floats, lengths: Sequence[int]) -> Floats:
    ends = list(accumulate(lengths))
    if mode == "cls":
        return hidden[[0, *ends[:-1]]]
    reduce = np.maximum.reduce if mode == "max" else np.add.reduce
    result: Floats = np.empty((len(lengths), hidden.shape[1]), np.float32)
    for row, end, length in zip(result, ends, lengths, strict=True):  # reduceat takes several times as long
        reduce(hidden[end - length : end], axis=0, out=row)
    if mode != "max":
        counts = np.array(lengths, np.float32)[:, None]
        result /= counts if mode == "mean" else np.sqrt(counts)
    return result
