"""Path -> Checkpoint: decides by what is there, a folder or GGUF's first bytes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from os import PathLike
from pathlib import Path

from rtp_core.checkpoint import gguf, gguf_model, hugging_face
from rtp_core.checkpoint.checkpoint import Checkpoint
from rtp_core.checkpoint.passing_tensors import PassingTensors
from rtp_core.errors import CheckpointError


def open_checkpoint(path: str | PathLike[str], *, supported: Collection[str] | None = None) -> Checkpoint:
    """Open a Hugging Face folder or a GGUF file. `supported` are the caller's model types; None takes any.

    Raises CheckpointError for what is missing or damaged, UnsupportedModelError for what rtp cannot run.
    """
    checkpoint = _open(Path(path), supported)
    return replace(checkpoint, tensors=PassingTensors(checkpoint.tensors))


def _open(path: Path, supported: Collection[str] | None) -> Checkpoint:
    if path.is_dir():
        alone = list(path.glob("*.gguf"))
        if len(alone) == 1 and not (path / "config.json").exists():
            return gguf_model.open_gguf(alone[0], supported=supported)
        return hugging_face.open_folder(path, supported=supported)
    if not path.exists():
        raise CheckpointError("no such model file", where=str(path), hint="rtp models ls")
    if not gguf.is_gguf(path):
        raise CheckpointError("not a model", where=str(path), why="expected a folder with config.json, or a GGUF file")
    return gguf_model.open_gguf(path, supported=supported)
