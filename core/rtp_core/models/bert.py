"""bert: a post-norm encoder with learned positions and an ungated ffn. MiniLM, BGE, E5, GTE."""

from __future__ import annotations

from rtp_core.config import ModelConfig
from rtp_core.device.attention_batch import EncoderBatch
from rtp_core.device.device import Device
from rtp_core.device.weights import AttentionWeights, EncoderWeights, FfnWeights, LayerWeights
from rtp_core.memory.buffer import Buffer
from rtp_core.models.activations import HIDDEN_ACTS
from rtp_core.models.weight_reader import WeightReader


def forward(ops: Device, weights: EncoderWeights, kv: tuple[Buffer, ...], batch: EncoderBatch) -> Buffer:
    """Hidden states [T, E] of the last layer, which ends with a norm."""
    x = ops.gather_rows(weights.embedding, batch.token_ids, dtype=weights.dtype)
    positions = ops.gather_rows(weights.positions, batch.positions)
    x, _ = ops.add_norm(x, positions, weights.norm)
    for layer in weights.layers:
        x = ops.encoder_layer(x, layer, batch.lengths)
    return x


def load(config: ModelConfig, loader: WeightReader, max_model_len: int) -> EncoderWeights:
    """All weights by Hugging Face's names, with or without `bert.` before them. Pooler and heads are not needed.

    Raises CheckpointError for a missing, misshapen or unexpected tensor.
    """
    hidden, eps = config.hidden_size, config.layer_norm_eps
    prefix = "bert." if loader.has("bert.embeddings.word_embeddings.weight") else ""
    embeddings = f"{prefix}embeddings"
    embedding = loader.embedding(f"{embeddings}.word_embeddings.weight", config.vocab_size, hidden)
    positions = loader.positions(
        f"{embeddings}.position_embeddings.weight",
        config.max_position_embeddings,
        hidden,
        segments=(f"{embeddings}.token_type_embeddings.weight", config.type_vocab_size),
        num=max_model_len,
    )
    norm = loader.layer_norm(f"{embeddings}.LayerNorm", hidden, eps)
    layers = tuple(_layer(config, loader, f"{prefix}encoder.layer.{i}") for i in range(config.num_hidden_layers))
    loader.ignore(f"{embeddings}.position_ids")
    loader.ignore_below(f"{prefix}pooler.")
    loader.ignore_below("cls.")
    loader.finish()
    return EncoderWeights(embedding, positions, norm, layers, loader.precision.dtype, forward)


def _layer(config: ModelConfig, loader: WeightReader, name: str) -> LayerWeights:
    hidden, inner, eps = config.hidden_size, config.intermediate_size, config.layer_norm_eps
    heads, dim = config.num_attention_heads, config.head_dim
    attention, size = f"{name}.attention", heads * dim
    qkv = [(f"{attention}.self.{part}", size) for part in ("query", "key", "value")]
    return LayerWeights(
        AttentionWeights(
            loader.linear(qkv, hidden, bias=True),
            loader.linear([(f"{attention}.output.dense", hidden)], size, bias=True)[0],
            heads,
            heads,
            dim,
        ),
        loader.layer_norm(f"{attention}.output.LayerNorm", hidden, eps),
        FfnWeights(
            loader.linear([(f"{name}.intermediate.dense", inner)], hidden, bias=True),
            loader.linear([(f"{name}.output.dense", hidden)], inner, bias=True)[0],
            HIDDEN_ACTS[config.hidden_act],
            is_gated=False,
        ),
        loader.layer_norm(f"{name}.output.LayerNorm", hidden, eps),
    )
