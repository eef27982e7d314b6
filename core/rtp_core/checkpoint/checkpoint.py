"""Checkpoint: everything that the files of one model say, under one set of names.

Tensors are views of the mapped files, under Hugging Face's names and in its order of axes; whether they
are the right ones for the architecture is for the models to check.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rtp_core.checkpoint.embedding_config import EmbeddingConfig
from rtp_core.config import ModelConfig
from rtp_core.memory.buffer import Buffer

Format = Literal["gguf", "safetensors"]


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """A tokenizer as Hugging Face stores it: the `tokenizer.json`, and what `tokenizer_config.json` holds."""

    tokenizer_json: Path
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GgufTokenizer:
    """A tokenizer as GGUF stores it: the file's `tokenizer.*` metadata."""

    path: Path
    metadata: Mapping[str, Any]


TokenizerSource = TokenizerFiles | GgufTokenizer


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An opened model. The files stay mapped for as long as any tensor lives; there is nothing to close."""

    path: Path
    format: Format
    config: ModelConfig
    tensors: Mapping[str, Buffer]  # of Buffers and QBuffers; a look-up makes a view, and at most reads that one tensor
    tokenizer: TokenizerSource | None
    chat_template: str | None
    generation_config: Mapping[str, Any]  # checked values only, see hugging_face.generation_config
    stored_bytes: Mapping[str, int]  # of each tensor in the files
    header: Mapping[str, Buffer]  # the tensors' names, shapes, dtypes and schemes; their contents are not to be read
    embedding: EmbeddingConfig | None = None  # of an encoder

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors as stored."""
        return sum(self.stored_bytes.values())
