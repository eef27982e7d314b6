"""What a model of random weights asks of a GPU in bfloat16: bytes of a decode step, operations of a prompt."""

from __future__ import annotations

from dataclasses import dataclass

from comparison.random_qwen2 import Shape, outline
from comparison.tensor_file import ITEM_BYTES

EMBEDDING, HEAD = "token_embd.weight", "output.weight"


@dataclass(frozen=True, slots=True)
class GpuWork:
    """`decode_bytes`: matrices that a step reads, however many requests it has. Flop of a prompt: two for each
    parameter of the linear layers and token, and apart from them those of attention's two products.
    """

    file_bytes: int
    decode_bytes: int
    prefill_tokens: int
    prefill_linear_flop: int
    prefill_attention_flop: int


def gpu_work(shape: Shape, tokens: int) -> GpuWork:
    """A tied embedding is read once a step, as the head; a prompt asks the head for its last position alone."""
    weights = list(outline(shape))
    matrices = {weight.name: weight.count for weight in weights if weight.is_matrix}
    linear = sum(count for name, count in matrices.items() if name not in (EMBEDDING, HEAD))
    width = shape.num_attention_heads * shape.head_dim
    return GpuWork(
        file_bytes=ITEM_BYTES * sum(weight.count for weight in weights),
        decode_bytes=ITEM_BYTES * (linear + matrices.get(HEAD, matrices[EMBEDDING])),
        prefill_tokens=tokens,
        prefill_linear_flop=2 * linear * tokens,
        # Of pairs of a token with those up to it: two products, of two operations for each value.
        prefill_attention_flop=4 * shape.num_hidden_layers * width * (tokens * (tokens + 1) // 2),
    )
