"""llama: SmolLM2, Llama 2 and 3, Mistral. A pre-norm decoder with rotary embeddings and a gated ffn."""

from __future__ import annotations

from rtp_core.config import ModelConfig
from rtp_core.device.attention_batch import ForwardBatch
from rtp_core.device.device import Device
from rtp_core.device.weights import AttentionWeights, FfnWeights, LayerWeights, Linear, ModelWeights, RopeTables
from rtp_core.memory.buffer import Buffer
from rtp_core.models.activations import HIDDEN_ACTS
from rtp_core.models.weight_reader import WeightReader


def forward(ops: Device, weights: ModelWeights, kv: tuple[Buffer, ...], batch: ForwardBatch) -> Buffer:
    """Hidden states [T, E] after the last norm."""
    x, residual = ops.gather_rows(weights.embedding, batch.token_ids, dtype=weights.dtype), None
    for layer, layer_kv in zip(weights.layers, kv, strict=True):
        x, residual = ops.decoder_layer(x, residual, layer, layer_kv, batch.attention)
    assert residual is not None  # a config has at least one layer
    return ops.add_norm(x, residual, weights.norm)[0]


def load(config: ModelConfig, loader: WeightReader, max_model_len: int) -> ModelWeights:
    """All weights by Hugging Face's names. Raises CheckpointError for a missing, misshapen or unexpected tensor."""
    return load_biased(config, loader, max_model_len, qkv=config.attention_bias, o=config.attention_bias)


def load_biased(config: ModelConfig, loader: WeightReader, max_model_len: int, *, qkv: bool, o: bool) -> ModelWeights:
    """`load`, for a kin of llama that says elsewhere which projections of attention have a bias."""
    hidden, vocab = config.hidden_size, config.vocab_size
    embedding = loader.embedding("model.embed_tokens.weight", vocab, hidden)
    factors = loader.vector_or_none("rope_freqs.weight", config.head_dim // 2)
    cos, sin = loader.rope_tables(config, max_model_len, factors)
    rope = RopeTables(loader.upload(cos, "rope.cos"), loader.upload(sin, "rope.sin"))
    layers = tuple(_layer(config, loader, f"model.layers.{i}", rope, qkv, o) for i in range(config.num_hidden_layers))
    norm = loader.norm("model.norm.weight", hidden, config.rms_norm_eps)
    if config.tie_word_embeddings:
        loader.ignore("lm_head.weight")
        lm_head = Linear(embedding)
    else:
        lm_head = loader.linear([("lm_head", vocab)], hidden, bias=False)[0]
    loader.ignore(*(f"model.layers.{i}.self_attn.rotary_emb.inv_freq" for i in range(config.num_hidden_layers)))
    loader.finish()
    return ModelWeights(embedding, layers, norm, lm_head, loader.precision.dtype, forward)


def _layer(
    config: ModelConfig, loader: WeightReader, name: str, rope: RopeTables, has_qkv_bias: bool, has_o_bias: bool
) -> LayerWeights:
    hidden, inner, dim = config.hidden_size, config.intermediate_size, config.head_dim
    heads, kv_heads, eps = config.num_attention_heads, config.num_key_value_heads, config.rms_norm_eps
    attn, mlp = f"{name}.self_attn", f"{name}.mlp"
    qkv = [(f"{attn}.q_proj", heads * dim), (f"{attn}.k_proj", kv_heads * dim), (f"{attn}.v_proj", kv_heads * dim)]
    up = [(f"{mlp}.gate_proj", inner), (f"{mlp}.up_proj", inner)]
    return LayerWeights(
        AttentionWeights(
            loader.linear(qkv, hidden, bias=has_qkv_bias),
            loader.linear([(f"{attn}.o_proj", hidden)], heads * dim, bias=has_o_bias)[0],
            heads,
            kv_heads,
            dim,
            rope,
        ),
        loader.norm(f"{name}.input_layernorm.weight", hidden, eps),
        FfnWeights(
            loader.linear(up, hidden, bias=config.mlp_bias),
            loader.linear([(f"{mlp}.down_proj", hidden)], inner, bias=config.mlp_bias)[0],
            HIDDEN_ACTS[config.hidden_act],
        ),
        loader.norm(f"{name}.post_attention_layernorm.weight", hidden, eps),
    )
