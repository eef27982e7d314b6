"""A Qwen2 of random weights, written as GGUF files and as a Hugging Face folder: speed does not ask what was learned.

All formats have the same weights: drawn in float32, rounded to bfloat16, then quantized.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import gguf
import ml_dtypes
import numpy as np
from gguf.quants import quantize

from comparison.tensor_file import write_bfloat16
from rtp_core.checkpoint.gguf import read_gguf
from rtp_core.checkpoint.gguf_model import hugging_face_name
from rtp_core.text.byte_alphabet import BYTE_OF_CHARACTER
from rtp_core.text.gguf_vocabulary import build_tokenizer

SEED = 0
WEIGHT_STD, EMBEDDING_STD, BIAS_STD = 0.02, 0.1, 0.1  # the embedding is the head too: its scale makes logits peaked
NORMAL, CONTROL = 1, 3  # token types
DRAWN_AT_ONCE = 1 << 24  # values in float32

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes, in Hugging Face's words. The default is that of Qwen2-0.5B."""

    hidden_size: int = 896
    num_hidden_layers: int = 24
    num_attention_heads: int = 14
    num_key_value_heads: int = 2
    intermediate_size: int = 4864
    vocab_size: int = 151936
    rope_theta: float = 1e6
    max_position_embeddings: int = 32768
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = True

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads


QWEN2_0_5B = Shape()
QWEN2_7B = Shape(
    hidden_size=3584,
    num_hidden_layers=28,
    num_attention_heads=28,
    num_key_value_heads=4,
    intermediate_size=18944,
    vocab_size=152064,
    tie_word_embeddings=False,
)


@dataclass(frozen=True, slots=True)
class Weight:
    """What is known of a tensor before it is drawn. `name`: GGUF's. `std`: None where all values are one."""

    name: str
    size: tuple[int, ...]
    std: float | None

    @property
    def is_matrix(self) -> bool:
        return len(self.size) == 2

    @property
    def count(self) -> int:
        return prod(self.size)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Tables of a byte-level BPE: texts by id, their types, merges, and the id that ends a text."""

    tokens: list[str]
    types: list[int]
    merges: list[str]
    eos_token_id: int

    @classmethod
    def of_gguf(cls, path: Path) -> Vocabulary:
        """That of another model."""
        metadata = read_gguf(path).metadata
        tokens = list(metadata["tokenizer.ggml.tokens"])
        types = [int(kind) for kind in metadata.get("tokenizer.ggml.token_type", [NORMAL] * len(tokens))]
        return cls(tokens, types, list(metadata["tokenizer.ggml.merges"]), int(metadata["tokenizer.ggml.eos_token_id"]))

    @classmethod
    def of_bytes(cls) -> Vocabulary:
        """A token for each byte and one that ends a text, for where no other model is at hand."""
        tokens = [*sorted(BYTE_OF_CHARACTER), "<|end|>"]
        end = len(tokens) - 1
        return cls(tokens, [*[NORMAL] * end, CONTROL], [], end)

    def filled_to(self, size: int) -> Vocabulary:
        """With tokens at the end that no merge leads to. Raises ValueError where there are more already."""
        if size < len(self.tokens):
            raise ValueError(f"a vocabulary of {len(self.tokens)} tokens does not go into {size}")
        fillers = [f"<|filler_{i}|>" for i in range(size - len(self.tokens))]
        types = [*self.types, *[NORMAL] * len(fillers)]
        return Vocabulary([*self.tokens, *fillers], types, self.merges, self.eos_token_id)


def write_gguf(path: Path, shape: Shape, vocabulary: Vocabulary, kind: str) -> Path:
    """Matrices in `kind` (Q4_0, Q8_0), vectors in float32. Whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    writer = gguf.GGUFWriter(partial, "qwen2")
    writer.add_name("random-qwen2")
    writer.add_context_length(shape.max_position_embeddings)
    writer.add_embedding_length(shape.hidden_size)
    writer.add_block_count(shape.num_hidden_layers)
    writer.add_feed_forward_length(shape.intermediate_size)
    writer.add_head_count(shape.num_attention_heads)
    writer.add_head_count_kv(shape.num_key_value_heads)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_layer_norm_rms_eps(shape.rms_norm_eps)
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{kind}"])
    _add_vocabulary(writer, vocabulary.filled_to(shape.vocab_size))
    stored = gguf.GGMLQuantizationType[kind]
    for weight, drawn in weights(shape):
        values = drawn.astype(np.float32)
        if weight.is_matrix:
            writer.add_tensor(weight.name, quantize(values, stored), raw_dtype=stored)
        else:
            writer.add_tensor(weight.name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return partial.rename(path)


def write_folder(folder: Path, shape: Shape, vocabulary: Vocabulary) -> Path:
    """config.json, tokenizer.json and bfloat16 safetensors, config.json last. Holds one tensor at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {hugging_face_name(weight.name): weight.size for weight in outline(shape)}
    write_bfloat16(folder / "model.safetensors", sizes, (drawn for _, drawn in weights(shape)))
    filled = vocabulary.filled_to(shape.vocab_size)
    metadata = {f"tokenizer.ggml.{key}": value for key, value in _tables(filled).items()}
    metadata["tokenizer.ggml.token_type"] = np.array(filled.types, np.int32)
    build_tokenizer(metadata, str(folder)).inner.save(str(folder / "tokenizer.json"))
    eos = filled.tokens[filled.eos_token_id]
    _write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": eos})
    config = {name: getattr(shape, name) for name in Shape.__dataclass_fields__}
    more = {"hidden_act": "silu", "dtype": "bfloat16", "use_sliding_window": False}
    known = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "eos_token_id": filled.eos_token_id}
    _write_json(folder / "config.json", {**known, **config, **more})
    return folder


def outline(shape: Shape) -> Iterator[Weight]:
    """The weights in the order in which they are drawn."""
    hidden, inner, dim = shape.hidden_size, shape.intermediate_size, shape.head_dim
    rows = {"q": shape.num_attention_heads * dim, "k": shape.num_key_value_heads * dim}
    rows["v"] = rows["k"]
    yield Weight("token_embd.weight", (shape.vocab_size, hidden), EMBEDDING_STD)
    for i in range(shape.num_hidden_layers):
        for name, count in rows.items():
            yield Weight(f"blk.{i}.attn_{name}.weight", (count, hidden), WEIGHT_STD)
            yield Weight(f"blk.{i}.attn_{name}.bias", (count,), BIAS_STD)
        yield Weight(f"blk.{i}.attn_output.weight", (hidden, rows["q"]), WEIGHT_STD)
        yield Weight(f"blk.{i}.ffn_gate.weight", (inner, hidden), WEIGHT_STD)
        yield Weight(f"blk.{i}.ffn_up.weight", (inner, hidden), WEIGHT_STD)
        yield Weight(f"blk.{i}.ffn_down.weight", (hidden, inner), WEIGHT_STD)
        yield Weight(f"blk.{i}.attn_norm.weight", (hidden,), None)
        yield Weight(f"blk.{i}.ffn_norm.weight", (hidden,), None)
    yield Weight("output_norm.weight", (hidden,), None)
    if not shape.tie_word_embeddings:
        yield Weight("output.weight", (shape.vocab_size, hidden), EMBEDDING_STD)


def weights(shape: Shape) -> Iterator[tuple[Weight, Array]]:
    """Each with its values in bfloat16: the same numbers every time."""
    random = np.random.default_rng(SEED)
    for weight in outline(shape):
        yield weight, _drawn(weight, random)


def _drawn(weight: Weight, random: np.random.Generator) -> Array:
    values = np.ones(weight.count, ml_dtypes.bfloat16)
    if weight.std is not None:
        for start in range(0, weight.count, DRAWN_AT_ONCE):
            piece = values[start : start + DRAWN_AT_ONCE]
            piece[:] = random.standard_normal(len(piece), dtype=np.float32) * np.float32(weight.std)
    return values.reshape(weight.size)


def _tables(vocabulary: Vocabulary) -> dict[str, object]:
    return {
        "model": "gpt2",
        "pre": "qwen2",
        "tokens": vocabulary.tokens,
        "merges": vocabulary.merges,
        "eos_token_id": vocabulary.eos_token_id,
        "add_bos_token": False,
    }


def _add_vocabulary(writer: gguf.GGUFWriter, vocabulary: Vocabulary) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    writer.add_eos_token_id(vocabulary.eos_token_id)
    writer.add_add_bos_token(False)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")
