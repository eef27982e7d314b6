"""A Hugging Face model folder -> Checkpoint. Reads JSON, Jinja text and safetensors; runs and unpickles nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from rtp_core.checkpoint.checkpoint import Checkpoint, TokenizerFiles
from rtp_core.checkpoint.compressed_tensors import quantized_scheme, with_scales
from rtp_core.checkpoint.embedding_config import read_embedding_config
from rtp_core.checkpoint.mapped_file import read_json, read_text
from rtp_core.checkpoint.safetensors import read_sharded
from rtp_core.config import ModelConfig, as_tuple
from rtp_core.errors import CheckpointError

_MAX_CONFIG = 16 << 20  # bytes
_MAX_TEMPLATE = 1 << 20

# Sampling defaults that a model may bring: name -> least and largest value.
_SAMPLING = {
    "temperature": (0.0, 1e4),
    "top_p": (0.0, 1.0),
    "top_k": (-1, 2**31),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (0.0, 1e4),
}


def open_folder(folder: Path, *, supported: Collection[str] | None = None) -> Checkpoint:
    """Open a folder with config.json and safetensors. Raises CheckpointError or UnsupportedModelError."""
    path = folder / "config.json"
    data = read_json(path, _MAX_CONFIG)
    config = ModelConfig.from_hf(data, path, supported=supported)
    quantization = data.get("quantization_config")
    scheme = None if quantization is None else quantized_scheme(quantization, path)
    tokenizer_config = _optional_json(folder / "tokenizer_config.json")
    tokenizer_json = folder / "tokenizer.json"
    stored = read_sharded(folder)
    tensors = stored if scheme is None else with_scales(stored, scheme, folder)
    return Checkpoint(
        path=folder,
        format="safetensors",
        config=config,
        tensors=tensors,
        tokenizer=TokenizerFiles(tokenizer_json, tokenizer_config) if tokenizer_json.exists() else None,
        chat_template=_chat_template(folder, tokenizer_config),
        generation_config=generation_config(folder / "generation_config.json"),
        stored_bytes={name: tensor.nbytes for name, tensor in stored.items()},
        header=tensors,
        embedding=read_embedding_config(folder, config.hidden_size, tokenizer_config) if config.is_encoder else None,
    )


def generation_config(path: Path) -> dict[str, Any]:
    """The sampling defaults of a model: `temperature`, `top_p`, `top_k`, `min_p`, `repetition_penalty`, `do_sample`
    and `eos_token_ids`, each only if the file gives it. Raises CheckpointError for a value out of range."""
    data = _optional_json(path)
    found: dict[str, Any] = {}
    for name, (least, largest) in _SAMPLING.items():
        value = data.get(name)
        if value is None:
            continue
        if type(value) not in (int, float) or not isfinite(value) or not least <= value <= largest:
            why = f"expected {least} to {largest}, got {value!r:.60}"
            raise CheckpointError(f"bad {name}", where=str(path), why=why)
        found[name] = value
    if isinstance(data.get("do_sample"), bool):
        found["do_sample"] = data["do_sample"]
    ids = as_tuple(data.get("eos_token_id"))
    if not all(type(token) is int and 0 <= token < 2**31 for token in ids):
        raise CheckpointError("bad eos_token_id", where=str(path), why=f"expected token ids, got {ids!r:.60}")
    if ids:
        found["eos_token_ids"] = ids
    return found


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path, _MAX_CONFIG) if path.exists() else {}


def _chat_template(folder: Path, tokenizer_config: Mapping[str, Any]) -> str | None:
    """The model's template: a file of its own, or in tokenizer_config a string or a list of named ones."""
    path = folder / "chat_template.jinja"
    if path.exists():
        return read_text(path, _MAX_TEMPLATE)
    template = tokenizer_config.get("chat_template")
    if isinstance(template, list):
        template = next((t.get("template") for t in template if isinstance(t, dict) and t.get("name") == "default"), 0)
    if template is not None and (not isinstance(template, str) or len(template) > _MAX_TEMPLATE):
        raise CheckpointError(
            "bad chat_template",
            where=str(folder / "tokenizer_config.json"),
            why=f"expected at most {_MAX_TEMPLATE} characters, or a list with a template named 'default'",
        )
    return template
