"""A model that says what a script tells it to: a llama whose layers add nothing, and how to run `rtp` on it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from typer.testing import Result

# What comes after a prompt that ends in the key. Every byte of a script has one successor.
SCRIPTS = {
    "\n": "Hi. \t",  # the chat template ends in a newline
    "a": "\x1b[31mhé你!",  # an escape sequence, and characters of two and three tokens
}
ENDLESS = "zyx"  # z, y, x, z, ...
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{{ '<|im_start|>assistant\n' }}"
)
CONTEXT = 1 << 16  # tokens: an endless text takes minutes to reach its end


def write_model(folder: Path, **files: Any) -> Path:
    """The scripted llama in `folder`. `config` adds to its config.json, `generation_config` is a file of its own,
    `chat_template=False` leaves it without one."""
    tokenizer = _tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    size = tokenizer.get_vocab_size()
    config = _config(size, tokenizer.token_to_id("<|im_end|>")) | files.get("config", {})
    _write_json(folder / "config.json", config)
    template = {"chat_template": CHAT_TEMPLATE} if files.get("chat_template", True) else {}
    _write_json(folder / "tokenizer_config.json", {"eos_token": "<|im_end|>", **template})
    if "generation_config" in files:
        _write_json(folder / "generation_config.json", files["generation_config"])
    save_file(_tensors(size, _successors(tokenizer)), folder / "model.safetensors")
    return folder


def on_ref(model: Path) -> list[str]:
    """Options that run `model` on the reference device. Its attention holds the scores of a whole step at once."""
    return [
        *("--model", str(model), "--device", "ref", "--dtype", "float32"),
        *("--memory-budget", "1GiB", "--max-num-batched-tokens", "256"),
    ]


def command(*arguments: object) -> list[str]:
    """`rtp` as a process of its own. A parent that ignores interrupts would pass that on."""
    start = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from rtp_core.cli.main import main; main()"
    )
    return [sys.executable, "-c", start, *map(str, arguments)]


def document(result: Result) -> dict[str, Any]:
    """The one JSON document on standard output."""
    found = json.loads(result.stdout)
    assert found["schema"] == 1
    return dict(found)


def _tokenizer() -> Tokenizer:
    vocabulary = {character: i for i, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|im_start|>"), AddedToken("<|im_end|>")])
    return tokenizer


def _successors(tokenizer: Tokenizer) -> dict[int, int]:
    end = tokenizer.token_to_id("<|im_end|>")
    successors = {}
    for prompt, text in SCRIPTS.items():
        tokens = tokenizer.encode(prompt + text).ids
        successors |= dict(zip(tokens, [*tokens[1:], end], strict=True))
    tokens = tokenizer.encode(ENDLESS).ids
    return successors | dict(zip(tokens, [*tokens[1:], tokens[0]], strict=True))


def _config(vocab_size: int, eos_token_id: int) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "vocab_size": vocab_size,
        "hidden_size": vocab_size,  # one dimension for each token
        "intermediate_size": 1024,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-6,
        "eos_token_id": eos_token_id,
        "tie_word_embeddings": False,
    }


def _tensors(size: int, successors: dict[int, int]) -> dict[str, np.ndarray]:
    """Layers that add nothing, so that the output head sees the last token alone and names its successor."""
    head = np.zeros((size, size), np.float32)
    for token in range(size):
        head[successors.get(token, token), token] = 100.0
    layer = {
        "input_layernorm": np.ones(size, np.float32),
        "post_attention_layernorm": np.ones(size, np.float32),
        "self_attn.q_proj": np.zeros((32, size), np.float32),
        "self_attn.k_proj": np.zeros((32, size), np.float32),
        "self_attn.v_proj": np.zeros((32, size), np.float32),
        "self_attn.o_proj": np.zeros((size, 32), np.float32),
        "mlp.gate_proj": np.zeros((1024, size), np.float32),
        "mlp.up_proj": np.zeros((1024, size), np.float32),
        "mlp.down_proj": np.zeros((size, 1024), np.float32),
    }
    return {
        "model.embed_tokens.weight": np.eye(size, dtype=np.float32),
        "model.norm.weight": np.ones(size, np.float32),
        "lm_head.weight": head,
        **{f"model.layers.0.{name}.weight": value for name, value in layer.items()},
    }


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))
