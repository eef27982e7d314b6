"""qwen2: llama with a bias on q, k and v, which its config does not mention."""

from __future__ import annotations

from rtp_core.config import ModelConfig
from rtp_core.device.weights import ModelWeights
from rtp_core.models import llama
from rtp_core.models.weight_reader import WeightReader


def load(config: ModelConfig, loader: WeightReader, max_model_len: int) -> ModelWeights:
    """As llama's."""
    return llama.load_biased(config, loader, max_model_len, qkv=True, o=False)
