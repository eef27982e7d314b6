"""GGUF metadata and tensors in Hugging Face's words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from rtp_core.checkpoint.opening import open_checkpoint
from rtp_core.errors import CheckpointError, UnsupportedModelError
from rtp_core.memory.qbuffer import QBuffer

WriteGguf = Callable[..., Path]
HEADS, KV_HEADS, HEAD_DIM, HIDDEN = 4, 2, 16, 64


def shape_of(arch: str, **more: Any) -> dict[str, Any]:
    given = {
        "block_count": 1,
        "embedding_length": HIDDEN,
        "feed_forward_length": 96,
        "context_length": 128,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        "attention.layer_norm_rms_epsilon": 0.25,
        "rope.freq_base": 5000.0,
    }
    return {f"{arch}.{key}": value for key, value in (given | more).items()}


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """What the converter to GGUF does to q and k of llama: half-split rows -> pairs."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))


def test_config_is_read_from_metadata(write_gguf: WriteGguf) -> None:
    metadata = shape_of("llama") | {
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.eot_token_id": 5,
        "tokenizer.chat_template": "{{ messages }}",
    }
    checkpoint = open_checkpoint(write_gguf({"token_embd.weight": normal(50, HIDDEN)}, metadata))
    config = checkpoint.config
    assert (config.model_type, config.vocab_size, config.hidden_size, config.head_dim) == (
        "llama",
        50,
        HIDDEN,
        HEAD_DIM,
    )
    assert (config.num_key_value_heads, config.rms_norm_eps, config.rope_theta) == (KV_HEADS, 0.25, 5000.0)
    assert (config.bos_token_id, config.eos_token_ids, config.tie_word_embeddings) == (1, (2, 5), True)
    assert (checkpoint.format, checkpoint.chat_template) == ("gguf", "{{ messages }}")
    assert checkpoint.nbytes == 50 * HIDDEN * 4


def test_llama_rows_are_put_back_into_half_split_order(write_gguf: WriteGguf) -> None:
    q, k, bias = normal(HEADS * HEAD_DIM, HIDDEN), normal(KV_HEADS * HEAD_DIM, HIDDEN), normal(HEADS * HEAD_DIM)
    path = write_gguf(
        {
            "token_embd.weight": normal(50, HIDDEN),
            "blk.0.attn_q.weight": interleaved(q, HEADS),
            "blk.0.attn_k.weight": interleaved(k, KV_HEADS),
            "blk.0.attn_q.bias": interleaved(bias, HEADS),
        },
        shape_of("llama"),
    )
    tensors = open_checkpoint(path).tensors
    np.testing.assert_array_equal(tensors["model.layers.0.self_attn.q_proj.weight"].numpy(), q)
    np.testing.assert_array_equal(tensors["model.layers.0.self_attn.k_proj.weight"].numpy(), k)
    np.testing.assert_array_equal(tensors["model.layers.0.self_attn.q_proj.bias"].numpy(), bias)


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0"])
def test_quantized_llama_rows_move_with_their_scales(write_gguf: WriteGguf, kind: str) -> None:
    q = normal(HEADS * HEAD_DIM, HIDDEN)
    path = write_gguf(
        {"token_embd.weight": normal(50, HIDDEN), "blk.0.attn_q.weight": (interleaved(q, HEADS), kind)},
        shape_of("llama"),
    )
    found = open_checkpoint(path).tensors["model.layers.0.self_attn.q_proj.weight"]
    assert isinstance(found, QBuffer)
    # Blocks lie along rows, so permuting and quantizing commute: compare with blocks of the original rows.
    blocks = gguf.quants.quantize(q, gguf.GGMLQuantizationType[kind]).reshape(*found.scales.shape, -1)
    np.testing.assert_array_equal(found.payload.numpy().view(np.uint8), blocks[..., -found.scheme.payload_bytes :])
    numbers = np.ascontiguousarray(blocks[..., : -found.scheme.payload_bytes]).view(np.float16)
    np.testing.assert_array_equal(found.scales.numpy(), numbers[..., 0])
    if found.zeros is not None:
        np.testing.assert_array_equal(found.zeros.numpy(), numbers[..., 1])


def test_qwen2_rows_stay_as_they_are(write_gguf: WriteGguf) -> None:
    q = normal(HEADS * HEAD_DIM, HIDDEN)
    tensors = {
        "token_embd.weight": normal(50, HIDDEN),
        "blk.0.attn_q.weight": q,
        "output.weight": normal(50, HIDDEN),
        "rope_freqs.weight": normal(8),
    }
    checkpoint = open_checkpoint(write_gguf(tensors, shape_of("qwen2"), arch="qwen2"))
    np.testing.assert_array_equal(checkpoint.tensors["model.layers.0.self_attn.q_proj.weight"].numpy(), q)
    assert not checkpoint.config.tie_word_embeddings
    assert {"lm_head.weight", "rope_freqs.weight"} < set(checkpoint.tensors)


def test_rope_scaling_and_sliding_window_are_read(write_gguf: WriteGguf) -> None:
    more = {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0, "attention.sliding_window": 64}
    config = open_checkpoint(write_gguf({"token_embd.weight": normal(50, HIDDEN)}, shape_of("llama", **more))).config
    assert config.rope_scaling is not None
    assert (config.rope_scaling.rope_type, config.rope_scaling.factor) == ("linear", 4.0)
    assert config.sliding_window == 64


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"rope.scaling.type": "yarn"}, "yarn"),
        ({"rope.dimension_count": 8}, "not rotated whole"),
        ({"attention.key_length": 32, "attention.value_length": 16}, "not rotated whole|differ"),
    ],
)
def test_settings_that_rtp_cannot_run_are_unsupported(write_gguf: WriteGguf, more: dict[str, Any], match: str) -> None:
    path = write_gguf({"token_embd.weight": normal(50, HIDDEN)}, shape_of("llama", **more))
    with pytest.raises(UnsupportedModelError, match=match):
        open_checkpoint(path)


def test_other_architectures_are_unsupported_and_the_supported_named(write_gguf: WriteGguf) -> None:
    path = write_gguf({"w": normal(4)}, arch="gemma")
    with pytest.raises(UnsupportedModelError, match=r"'gemma'.*llama, qwen2"):
        open_checkpoint(path)
    with pytest.raises(UnsupportedModelError, match=r"'gemma'.*supported are qwen2"):
        open_checkpoint(path, supported=("qwen2", "bert"))


@pytest.mark.parametrize(
    "more",
    [
        {"attention.head_count": [4]},
        {"embedding_length": 0},
        {"attention.head_count": 0},
        {"embedding_length": "64"},
        {"rope.freq_base": -1.0},
        {"attention.head_count": 3},
    ],
)
def test_impossible_metadata_is_one_clear_error(write_gguf: WriteGguf, more: dict[str, Any]) -> None:
    path = write_gguf({"token_embd.weight": normal(50, HIDDEN)}, shape_of("llama", **more))
    with pytest.raises(CheckpointError, match=r"m\.gguf"):
        open_checkpoint(path)


def test_rotary_rows_that_are_not_whole_heads_are_refused(write_gguf: WriteGguf) -> None:
    path = write_gguf(
        {"token_embd.weight": normal(50, HIDDEN), "blk.0.attn_k.weight": normal(24, HIDDEN)}, shape_of("llama")
    )
    with pytest.raises(CheckpointError, match=r"blk\.0\.attn_k\.weight"):
        open_checkpoint(path)


def test_the_default_model_opens_whole(default_model_path: Path) -> None:
    checkpoint = open_checkpoint(default_model_path)
    config, tensors = checkpoint.config, checkpoint.tensors
    assert (config.num_hidden_layers, config.hidden_size, config.vocab_size) == (30, 576, 49152)
    assert len(tensors) == 2 + 9 * 30
    for layer in range(config.num_hidden_layers):
        assert tensors[f"model.layers.{layer}.self_attn.k_proj.weight"].shape == (192, 576)
        assert tensors[f"model.layers.{layer}.mlp.down_proj.weight"].shape == (576, 1536)
        assert tensors[f"model.layers.{layer}.post_attention_layernorm.weight"].shape == (576,)
    assert tensors["model.embed_tokens.weight"].shape == (49152, 576)
    assert tensors["model.norm.weight"].shape == (576,)


def test_what_is_no_model_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such model file"):
        open_checkpoint(tmp_path / "none")
    (tmp_path / "x.bin").write_bytes(b"PK\x03\x04")
    with pytest.raises(CheckpointError, match="not a model"):
        open_checkpoint(tmp_path / "x.bin")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        open_checkpoint(tmp_path)
