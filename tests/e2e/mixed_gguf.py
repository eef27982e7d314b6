"""Small GGUF files with random blocks of many types, mixed as llama.cpp's Q4_K_M and Q5_K_M mix them.

Seeded: a name always gives the same bytes. Needs NumPy and the gguf package alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

VOCAB = 384
CONTEXT = 256

# By type: d, and the minimum of a block in units of d. Numbers then have a mean of 0 and a deviation of about 0.07.
SCALES = {
    "Q4_0": (0.016, 0),
    "Q4_1": (0.016, -7.5),
    "Q5_0": (0.008, 0),
    "Q5_1": (0.008, -15.5),
    "Q8_0": (0.001, 0),
    "Q4_K": (0.0005, 7.5),
    "Q5_K": (0.00025, 15.5),
    "Q6_K": (0.00005, 0),
}


@dataclass(frozen=True)
class Mixed:
    """`layers`: by tensor, the type in each layer. Types and sizes are such as llama.cpp would choose."""

    arch: str
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    rope_theta: float
    embedding: str
    output: str | None  # None: tied
    layers: dict[str, tuple[str, ...]]
    pre: str

    @property
    def hidden(self) -> int:
        return self.heads * self.head_dim

    @property
    def num_layers(self) -> int:
        return len(self.layers["attn_q"])


MIXED = {
    # Layers like Q4_K_M's of either kind, one like Q5_K_M's, and one of the types with a scale a group.
    "llama": Mixed(
        "llama", 4, 2, 64, 512, 10000.0, "Q4_K", "Q6_K",
        {
            "attn_q": ("Q4_K", "Q4_K", "Q5_K", "Q5_0"),
            "attn_k": ("Q4_K", "Q4_K", "Q5_K", "Q5_1"),
            "attn_v": ("Q6_K", "Q4_K", "Q6_K", "Q8_0"),
            "attn_output": ("Q4_K", "Q4_K", "Q5_K", "Q5_0"),
            "ffn_gate": ("Q4_K", "Q4_K", "Q5_K", "Q5_1"),
            "ffn_up": ("Q4_K", "Q5_K", "Q5_K", "Q4_1"),
            "ffn_down": ("Q6_K", "Q4_K", "Q5_K", "F16"),
        },
        "llama-bpe",
    ),
    # As a Qwen2 of 0.5B: 224 columns, like its 896, are no multiple of 256, so that Q4_K_M falls back there.
    "qwen2": Mixed(
        "qwen2", 7, 1, 32, 512, 1e6, "Q8_0", None,
        {
            "attn_q": ("Q5_0", "Q5_0", "Q5_0"),
            "attn_k": ("Q5_0", "Q5_0", "Q5_0"),
            "attn_v": ("Q8_0", "Q5_0", "Q8_0"),
            "attn_output": ("Q5_0", "Q5_0", "Q5_1"),
            "ffn_gate": ("Q5_0", "Q5_0", "Q4_0"),
            "ffn_up": ("Q5_0", "Q5_0", "Q4_0"),
            "ffn_down": ("Q6_K", "Q4_K", "Q5_K"),
        },
        "qwen2",
    ),
}  # fmt: skip


def write_mixed(name: str, path: Path, *, as_floats: bool = False) -> Path:
    """The file of a name in MIXED; `as_floats` with the numbers that its blocks mean."""
    mixed, rng = MIXED[name], np.random.default_rng(sum(map(ord, name)))
    writer = gguf.GGUFWriter(path, mixed.arch)
    writer.add_block_count(mixed.num_layers)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(mixed.hidden)
    writer.add_feed_forward_length(mixed.inner)
    writer.add_head_count(mixed.heads)
    writer.add_head_count_kv(mixed.kv_heads)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(mixed.rope_theta)
    writer.add_rope_dimension_count(mixed.head_dim)
    writer.add_vocab_size(VOCAB)
    _add_tokenizer(writer, mixed.pre)
    for tensor, kind, rows, columns in _matrices(mixed):
        data, stored = _blocks(kind, rows, columns, rng), gguf.GGMLQuantizationType[kind]
        if as_floats:
            writer.add_tensor(tensor, gguf.quants.dequantize(data, stored).astype(np.float32))
        else:
            writer.add_tensor(tensor, data, raw_dtype=stored)
    for tensor, size, low, high in _vectors(mixed):
        writer.add_tensor(tensor, rng.uniform(low, high, size).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _matrices(mixed: Mixed) -> Iterator[tuple[str, str, int, int]]:
    """Name, type, rows, columns."""
    hidden, kv_size = mixed.hidden, mixed.kv_heads * mixed.head_dim
    shapes = {
        "attn_q": (hidden, hidden),
        "attn_k": (kv_size, hidden),
        "attn_v": (kv_size, hidden),
        "attn_output": (hidden, hidden),
        "ffn_gate": (mixed.inner, hidden),
        "ffn_up": (mixed.inner, hidden),
        "ffn_down": (hidden, mixed.inner),
    }
    yield "token_embd.weight", mixed.embedding, VOCAB, hidden
    if mixed.output is not None:
        yield "output.weight", mixed.output, VOCAB, hidden
    for role, kinds in mixed.layers.items():
        for layer, kind in enumerate(kinds):
            yield f"blk.{layer}.{role}.weight", kind, *shapes[role]


def _vectors(mixed: Mixed) -> Iterator[tuple[str, int, float, float]]:
    """Name, size, and between what their numbers are."""
    kv_size = mixed.kv_heads * mixed.head_dim
    yield "output_norm.weight", mixed.hidden, 0.5, 1.5
    for layer in range(mixed.num_layers):
        for norm in ("attn_norm", "ffn_norm"):
            yield f"blk.{layer}.{norm}.weight", mixed.hidden, 0.5, 1.5
        if mixed.arch == "qwen2":
            for role, size in (("attn_q", mixed.hidden), ("attn_k", kv_size), ("attn_v", kv_size)):
                yield f"blk.{layer}.{role}.bias", size, -0.5, 0.5


def _blocks(kind: str, rows: int, columns: int, rng: np.random.Generator) -> NDArray[np.generic]:
    """Any codes, with scales of one magnitude."""
    if kind == "F16":
        return (rng.standard_normal((rows, columns)) * 0.07).astype(np.float16)
    block, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    data = rng.integers(0, 256, (rows, columns // block, block_bytes), np.uint8)
    d, minimum = SCALES[kind]
    scales = (d * rng.uniform(0.5, 1.5, (*data.shape[:2], 1))).astype("<f2")
    at = 208 if kind == "Q6_K" else 0
    data[..., at : at + 2] = scales.view(np.uint8)
    if minimum:
        data[..., 2:4] = (scales * np.float16(minimum)).astype("<f2").view(np.uint8)
    return data.reshape(rows, -1)


def _add_tokenizer(writer: gguf.GGUFWriter, pre: str) -> None:
    """Bytes as tokens, an end of text, one merge, and tokens that no text has."""
    tokens = [*_byte_level_alphabet(), "<|end|>", "th", *(f"<|{n}|>" for n in range(VOCAB - 258))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([1] * 256 + [3, 1] + [3] * (VOCAB - 258))
    writer.add_token_merges(["t h"])
    writer.add_eos_token_id(256)
    writer.add_add_bos_token(False)


def _byte_level_alphabet() -> list[str]:
    """One character a byte. Source: bytes_to_unicode of GPT-2's encoder.py."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + n) for n in range(len(others))]
