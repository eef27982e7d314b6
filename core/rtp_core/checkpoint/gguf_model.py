"""GGUF's words for a model -> Hugging Face's: config, tensor names and the order of rotary rows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtp_core.checkpoint.checkpoint import Checkpoint, GgufTokenizer
from rtp_core.checkpoint.gguf import GgufFile, read_gguf
from rtp_core.checkpoint.gguf_blocks import stored_buffer
from rtp_core.checkpoint.mapped_file import forget_pages
from rtp_core.config import ModelConfig, as_tuple, check_model_type
from rtp_core.errors import CheckpointError, UnsupportedModelError
from rtp_core.memory.buffer import Buffer

_ARCHITECTURES = ("llama", "qwen2")
_INTERLEAVED_ROPE = ("llama",)  # their q and k rows are stored pair by pair, see _half_split_rows

_MODEL_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def open_gguf(path: str | PathLike[str], *, supported: Collection[str] | None = None) -> Checkpoint:
    """Open a GGUF file. Raises CheckpointError (damaged) or UnsupportedModelError (not for rtp)."""
    file = read_gguf(path)
    config = model_config(file, supported=supported)
    template = _plain(file, "tokenizer.chat_template")
    if template is not None and not isinstance(template, str):
        raise _bad(file, "tokenizer.chat_template", template, "a string")
    tokenizer = {key: value for key, value in file.metadata.items() if key.startswith("tokenizer.")}
    tensors = GgufTensors(replace(file, metadata={}), config)
    return Checkpoint(
        path=file.path,
        format="gguf",
        config=config,
        tensors=tensors,
        tokenizer=GgufTokenizer(file.path, tokenizer) if tokenizer else None,
        chat_template=template,
        generation_config={},
        stored_bytes=tensors.stored_bytes(),
        header=tensors.header(),
    )


def model_config(file: GgufFile, *, supported: Collection[str] | None = None) -> ModelConfig:
    """The config in a file's metadata. Raises CheckpointError or UnsupportedModelError."""
    arch = _plain(file, "general.architecture")
    if not isinstance(arch, str):
        raise _bad(file, "general.architecture", arch, "a string")
    check_model_type(arch, [a for a in _ARCHITECTURES if supported is None or a in supported], file.path)
    if _plain(file, "split.count") not in (None, 1):
        raise UnsupportedModelError("a model split over several files", where=str(file.path), hint="merge them first")

    def get(key: str) -> Any:
        return _plain(file, f"{arch}.{key}")

    fields = {
        "model_type": arch,
        "vocab_size": _vocab_size(file, get),
        "hidden_size": get("embedding_length"),
        "intermediate_size": get("feed_forward_length"),
        "num_hidden_layers": get("block_count"),
        "num_attention_heads": get("attention.head_count"),
        "num_key_value_heads": _or(get("attention.head_count_kv"), get("attention.head_count")),
        "head_dim": _head_dim(file, get),
        "rms_norm_eps": get("attention.layer_norm_rms_epsilon"),
        "rope_theta": get("rope.freq_base"),
        "rope_scaling": _rope_scaling(file, get),
        "max_position_embeddings": get("context_length"),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "attention_bias": "blk.0.attn_output.bias" in file.tensors,
        "mlp_bias": "blk.0.ffn_down.bias" in file.tensors,
        "sliding_window": get("attention.sliding_window") or None,
        "bos_token_id": _plain(file, "tokenizer.ggml.bos_token_id"),
        "eos_token_ids": _eos_token_ids(file),
    }
    return ModelConfig.checked({name: value for name, value in fields.items() if value is not None}, file.path)


class GgufTensors(Mapping[str, Buffer]):
    """A file's tensors under Hugging Face's names. A look-up makes a view, or reads the tensor where no view will do.

    None will do for blocks that must be unpacked, and for rotary rows, which are put in another order.
    """

    def __init__(self, file: GgufFile, config: ModelConfig) -> None:
        self._file = file
        self._names = {hugging_face_name(name): name for name in file.tensors}
        if len(self._names) != len(file.tensors):
            raise CheckpointError("bad GGUF file: two tensors of one meaning", where=str(file.path))
        self._heads: dict[str, int] = {}  # GGUF name -> heads, for tensors with interleaved rotary rows
        if config.model_type in _INTERLEAVED_ROPE:
            for name, tensor in file.tensors.items():
                heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(_role(name))
                if heads is None:
                    continue
                if tensor.shape[0] != heads * config.head_dim:
                    why = f"expected {heads} heads of {config.head_dim} rows, got shape {tensor.shape}"
                    raise CheckpointError(f"bad shape of tensor {name!r}", where=str(file.path), why=why)
                self._heads[name] = heads

    def __getitem__(self, name: str) -> Buffer:
        stored = self._names[name]
        if stored not in self._heads:
            return self._file.buffer(stored)
        tensor = self._file.tensors[stored]
        rows = self._file.raw(stored).reshape(tensor.shape[0], -1)
        copied = np.ascontiguousarray(rows[_half_split_rows(tensor.shape[0], self._heads[stored])])
        forget_pages(self._file.raw(stored))
        return stored_buffer(tensor.type, tensor.shape, copied.reshape(-1))

    def header(self) -> dict[str, Buffer]:
        """The tensors as the file has them, or their outlines, where a look-up here would read contents."""
        return {name: self._file.header_buffer(stored) for name, stored in self._names.items()}

    def stored_bytes(self) -> dict[str, int]:
        """The size of each in the file."""
        return {name: self._file.tensors[stored].nbytes for name, stored in self._names.items()}

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def hugging_face_name(name: str) -> str:
    """Hugging Face's name of a GGUF tensor; names without a counterpart stay as they are."""
    parts = name.split(".")
    if len(parts) == 2 and parts[0] in _MODEL_NAMES:
        return f"{_MODEL_NAMES[parts[0]]}.{parts[1]}"
    if len(parts) == 4 and parts[0] == "blk" and parts[1].isdecimal() and parts[2] in _LAYER_NAMES:
        return f"model.layers.{parts[1]}.{_LAYER_NAMES[parts[2]]}.{parts[3]}"
    return name


def _role(name: str) -> str:
    parts = name.split(".")
    return parts[2] if len(parts) == 4 and parts[0] == "blk" else ""


def _half_split_rows(rows: int, heads: int) -> NDArray[np.int64]:
    """For each row of a half-split head, where GGUF keeps it.

    rtp rotates element i of a head with i + D/2, as Hugging Face does; files of these architectures are
    written for rotation of 2i with 2i + 1. Source: LlamaModel.permute of llama.cpp's converter, undone here.
    """
    return np.arange(rows).reshape(heads, rows // heads // 2, 2).swapaxes(1, 2).reshape(rows)


def _vocab_size(file: GgufFile, get: Callable[[str], Any]) -> Any:
    size = get("vocab_size")
    embedding = file.tensors.get("token_embd.weight")
    return embedding.shape[0] if size is None and embedding is not None else size


def _head_dim(file: GgufFile, get: Callable[[str], Any]) -> Any:
    heads, hidden = get("attention.head_count"), get("embedding_length")
    head_dim = get("attention.key_length")
    if head_dim is None and type(heads) is int and type(hidden) is int and heads > 0:
        if hidden % heads:
            raise _bad(file, "embedding_length", hidden, f"a multiple of head_count {heads}")
        head_dim = hidden // heads
    rotated = _or(get("rope.dimension_count"), head_dim)
    values = _or(get("attention.value_length"), head_dim)
    if rotated != head_dim or values != head_dim:
        raise UnsupportedModelError(
            "heads that are not rotated whole, or differ between keys and values",
            where=str(file.path),
            why=f"keys have {head_dim} elements, {rotated} of them rotated; values have {values}",
        )
    return head_dim


def _rope_scaling(file: GgufFile, get: Callable[[str], Any]) -> dict[str, Any] | None:
    kind = get("rope.scaling.type")
    factor = _or(get("rope.scaling.factor"), get("rope.scale_linear"))
    if kind is None:
        kind = "none" if factor in (None, 1.0) else "linear"
    if kind not in ("none", "linear"):
        raise UnsupportedModelError(
            f"unsupported rope type {kind!r}", where=str(file.path), why="supported are none, linear"
        )
    return None if kind == "none" else {"rope_type": "linear", "factor": _or(factor, 1.0)}


def _plain(file: GgufFile, key: str) -> Any:
    """A metadata value, or None; arrays as lists, so that comparing them is harmless."""
    value = file.metadata.get(key)
    return value.tolist() if isinstance(value, np.ndarray) else value


def _eos_token_ids(file: GgufFile) -> tuple[Any, ...]:
    """The ids that end a text or a turn, each once, in the file's order."""
    ids = [i for key in ("eos_token_id", "eot_token_id") for i in as_tuple(_plain(file, f"tokenizer.ggml.{key}"))]
    return tuple(token for n, token in enumerate(ids) if token not in ids[:n])


def _or(value: Any, otherwise: Any) -> Any:
    return otherwise if value is None else value


def _bad(file: GgufFile, key: str, value: Any, expected: str) -> CheckpointError:
    why = f"expected {expected}, got {value!r:.60}"
    return CheckpointError(f"bad GGUF metadata {key!r}", where=str(file.path), why=why)
