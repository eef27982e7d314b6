"""The smallest shape that still has all of Qwen2's parts, for tests to vary."""

from comparison.random_qwen2 import Shape

TINY_QWEN2 = Shape(
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=96,
    vocab_size=320,
    max_position_embeddings=128,
)
