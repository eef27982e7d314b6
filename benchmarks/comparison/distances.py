"""How far an engine's logits are from rtp's float32 path on the file that they came from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from rtp_core import LLM
from rtp_core.device.host_sampling import log_softmax
from rtp_core.engine.evaluation import Evaluation, Tally


def open_reference(model: Path, threads: int) -> LLM:
    return LLM(str(model), device="cpu", dtype="float32", threads=threads, max_model_len=2048, max_num_seqs=1)


def distances(reference: LLM, token_ids: Mapping[str, list[int]], logits: Path) -> dict[str, dict[str, float | None]]:
    """By text. `logits` has a file [T, V] float32 for each; it is mapped, and read some rows at a time."""
    stored = {name: np.load(logits / f"{name}.npy", mmap_mode="r") for name in token_ids}
    return {name: _as_document(distance(reference, ids, stored[name])) for name, ids in token_ids.items()}


def distance(reference: LLM, ids: list[int], logits: np.ndarray) -> Evaluation:
    """Of an engine's logits [T, V] after each token of `ids`, read some rows at a time."""
    tally, start, last = Tally(), 0, len(ids) - 1
    for expected in reference.score(ids):
        stop = min(start + len(expected), last)
        vocab = min(logits.shape[1], expected.shape[1])  # some engines pad the vocabulary
        theirs = log_softmax(np.ascontiguousarray(logits[start:stop, :vocab], np.float32))
        if stop > start:
            tally.add(theirs, ids[start + 1 : stop + 1], expected[: stop - start, :vocab])
        start = stop
    return tally.evaluation()


def _as_document(found: Evaluation) -> dict[str, float | None]:
    return {name: getattr(found, name) for name in ("kl", "logprob_difference", "top1_agreement")}
