"""Small random checkpoints, written by transformers itself."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

VOCAB = 384


def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes as tokens, and an end of text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>")


SHAPES = {
    "llama_tied": dict(tie_word_embeddings=True, num_attention_heads=4, num_key_value_heads=2),
    "llama_odd_heads": dict(hidden_size=60, num_attention_heads=5, num_key_value_heads=1, head_dim=12),
    "llama_biases": dict(
        attention_bias=True, mlp_bias=True, hidden_size=72, num_attention_heads=6, num_key_value_heads=3
    ),
    "llama_whole_blocks": dict(
        hidden_size=256, intermediate_size=512, num_attention_heads=4, num_key_value_heads=2, initializer_range=0.1
    ),
    "llama_wide_heads": dict(hidden_size=48, num_attention_heads=3, num_key_value_heads=3, head_dim=40),
    "llama3_rope": dict(
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    ),
    "qwen2_tied": dict(tie_word_embeddings=True, num_attention_heads=4, num_key_value_heads=2),
    "qwen2_untied": dict(num_attention_heads=7, num_key_value_heads=1, hidden_size=56),
}


def make_model(shape: str) -> torch.nn.Module:
    """A random float32 model whose next-token distributions are not flat."""
    torch.manual_seed(sum(map(ord, shape)))
    options = dict(
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=256,
        attn_implementation="eager",
    )
    options |= SHAPES[shape]
    is_qwen = shape.startswith("qwen2")
    model = Qwen2ForCausalLM(Qwen2Config(**options)) if is_qwen else LlamaForCausalLM(LlamaConfig(**options))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.3)
            elif "norm" in name:
                parameter.uniform_(0.5, 1.5)
    return model.eval()


def save(
    model: torch.nn.Module, folder: Path, dtype: torch.dtype = torch.float32, shard: str = "5GB"
) -> torch.nn.Module:
    """config.json, tokenizer.json and safetensors in `folder`, stored in `dtype`. Returns what is stored."""
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    tokenizer().save_pretrained(folder)
    return type(model).from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


# -- encoders ------------------------------------------------------------------------------------------------------

ENCODERS = {
    "bert": dict(),
    "bert_gelu_new": dict(hidden_act="gelu_new", layer_norm_eps=1e-5),
    "bert_relu_odd_heads": dict(hidden_act="relu", hidden_size=55, num_attention_heads=5, intermediate_size=77),
    "bert_one_segment": dict(type_vocab_size=1, max_position_embeddings=100),
    "bert_no_pooler": dict(),
    "bert_masked_lm": dict(),  # its tensors have the prefix bert., and a head beside them
}
ENCODER_LENGTH = 64


def make_encoder(shape: str) -> torch.nn.Module:
    """A random float32 BERT whose tokens are not alike."""
    torch.manual_seed(sum(map(ord, shape)))
    options = dict(
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=ENCODER_LENGTH,
        initializer_range=0.2,
        attn_implementation="eager",
    )
    config = BertConfig(**(options | ENCODERS[shape]))
    if shape == "bert_masked_lm":
        model = BertForMaskedLM(config)
    else:
        model = BertModel(config, add_pooling_layer=shape != "bert_no_pooler")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.3)
            elif "LayerNorm" in name:
                parameter.uniform_(0.5, 1.5)
    return model.eval()


def encoder_tokenizer() -> PreTrainedTokenizerFast:
    """Letters as pieces of words, [CLS] before and [SEP] after; the file truncates and pads, as the real ones do."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(c) for c in range(33, 127)]
    vocab = {token: i for i, token in enumerate([*special, *letters, *(f"##{c}" for c in letters), "the", "##ing"])}
    inner = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=False)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    ends = [(token, vocab[token]) for token in ("[CLS]", "[SEP]")]
    inner.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    inner.add_special_tokens(special)
    inner.enable_truncation(11)
    inner.enable_padding(length=11)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        **{f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")},
        model_max_length=ENCODER_LENGTH,
    )


def save_encoder(model: torch.nn.Module, folder: Path, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """config.json, tokenizer.json and safetensors in `folder`, stored in `dtype`. Returns the encoder as stored."""
    model.to(dtype).save_pretrained(folder)
    encoder_tokenizer().save_pretrained(folder)
    return BertModel.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", add_pooling_layer=False
    ).eval()
