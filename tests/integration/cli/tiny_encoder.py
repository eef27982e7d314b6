"""A small random BERT as a folder, with single letters as tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from rtp_core.conformance.tiny_encoder import tiny_encoder_config, tiny_encoder_tensors

WIDTH = tiny_encoder_config().hidden_size
LENGTH = tiny_encoder_config().max_position_embeddings


def write_encoder(folder: Path, tensors: Mapping[str, NDArray[Any]] | None = None, **config: Any) -> Path:
    """`config` adds to its config.json, `tensors` to its weights. Embeddings are the mean over tokens, as they are."""
    fields = {**tiny_encoder_config().model_dump(mode="json"), "model_type": "bert", **config}
    (folder / "config.json").write_text(json.dumps(fields))
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = ["[CLS]", "[SEP]", "[UNK]", *letters, *(f"##{letter}" for letter in letters)]
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    given = {name: tensor.numpy() for name, tensor in tiny_encoder_tensors().items()}
    save_file({**given, **(tensors or {})}, folder / "model.safetensors")
    return folder
