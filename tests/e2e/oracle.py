"""The independent oracle: transformers on the dequantized weights of a GGUF file, read with the gguf package."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import torch
from gguf.quants import dequantize
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def model_of_gguf(path: Path) -> LlamaForCausalLM | Qwen2ForCausalLM:
    """A float32 llama or qwen2. GGUF stores a llama's q and k rows for interleaved rope: pairs side by side."""
    reader = gguf.GGUFReader(path)
    arch = reader.fields["general.architecture"].contents()
    value = {n.removeprefix(f"{arch}."): f.contents() for n, f in reader.fields.items() if n.startswith(f"{arch}.")}
    heads, kv_heads = value["attention.head_count"], value["attention.head_count_kv"]
    names = {tensor.name for tensor in reader.tensors}
    options = dict(
        vocab_size=value["vocab_size"],
        hidden_size=value["embedding_length"],
        intermediate_size=value["feed_forward_length"],
        num_hidden_layers=value["block_count"],
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        rms_norm_eps=value["attention.layer_norm_rms_epsilon"],
        max_position_embeddings=value["context_length"],
        rope_parameters={"rope_type": "default", "rope_theta": value["rope.freq_base"]},
        tie_word_embeddings="output.weight" not in names,
        attn_implementation="eager",
    )
    is_qwen = arch == "qwen2"
    model = Qwen2ForCausalLM(Qwen2Config(**options)) if is_qwen else LlamaForCausalLM(LlamaConfig(**options))
    state = {}
    for tensor in reader.tensors:
        numbers = np.array(dequantize(tensor.data, tensor.tensor_type), np.float32)
        kind, part = tensor.name.split(".")[-2:]
        if kind in ("attn_q", "attn_k") and not is_qwen:
            count = heads if kind == "attn_q" else kv_heads
            pairs = numbers.reshape(count, numbers.shape[0] // count // 2, 2, -1)
            numbers = pairs.swapaxes(1, 2).reshape(numbers.shape)
        layer = f"model.layers.{tensor.name.split('.')[1]}." if tensor.name.startswith("blk.") else ""
        state[f"{layer}{NAMES[kind]}.{part}"] = torch.from_numpy(numbers)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and missing in ([], ["lm_head.weight"])
    model.tie_weights()
    return model.eval()


@torch.no_grad()
def logits_of(model: torch.nn.Module, token_ids: list[int]) -> np.ndarray:
    """[T, V] float64."""
    return model(torch.tensor([token_ids])).logits[0].double().numpy()


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def assert_greedy(model: torch.nn.Module, prompt: list[int], tokens: list[int]) -> None:
    """Each token is what the model puts first after those before it, or within 1e-3 of that: there texts may part."""
    logits = logits_of(model, [*prompt, *tokens[:-1]])[len(prompt) - 1 :]
    for position, (row, token) in enumerate(zip(logits, tokens, strict=True)):
        gap = row.max() - row[token]
        assert gap <= 1e-3, f"token {position} is {token}, expected {row.argmax()}; the gap is {gap}"


def assert_same_tokens(got: list[int], expected: list[int], gaps: list[float]) -> None:
    """Equal up to the first position where the oracle's best two logits are within 1e-3: there texts may part."""
    for position, (g, e, gap) in enumerate(zip(got, expected, gaps, strict=True)):
        if g != e:
            assert gap <= 1e-3, f"token {position} is {g}, expected {e}; the gap is {gap}"
            return
