"""A small random encoder, made in memory, and the step that runs it on a device as the engine would."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rtp_core.config import ModelConfig
from rtp_core.conformance.tiny_model import DIM, HEADS, HIDDEN, INNER, LAYERS, MAX_MODEL_LEN, VOCAB, WHERE
from rtp_core.device.device import Device
from rtp_core.device.plan import resolve
from rtp_core.device.weights import EncoderWeights
from rtp_core.memory.buffer import Buffer
from rtp_core.models.model import demand, load_model
from rtp_core.models.weight_loader import WeightLoader
from rtp_core.models.weight_reader import Precision
from rtp_core.runner.encoder_runner import EncoderRunner


def tiny_encoder_config() -> ModelConfig:
    fields = {
        "model_type": "bert",
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "head_dim": DIM,
        "max_position_embeddings": MAX_MODEL_LEN,
        "hidden_act": "gelu",
    }
    return ModelConfig.checked(fields, WHERE)


def tiny_encoder_tensors() -> dict[str, Buffer]:
    """Random weights under Hugging Face's names."""
    rng = np.random.default_rng(29)
    tables = {"word": VOCAB, "position": MAX_MODEL_LEN, "token_type": 2}
    arrays = {f"embeddings.{name}_embeddings.weight": rng.standard_normal((n, HIDDEN)) for name, n in tables.items()}
    linears = {
        "attention.self.query": (HIDDEN, HIDDEN),
        "attention.self.key": (HIDDEN, HIDDEN),
        "attention.self.value": (HIDDEN, HIDDEN),
        "attention.output.dense": (HIDDEN, HIDDEN),
        "intermediate.dense": (INNER, HIDDEN),
        "output.dense": (HIDDEN, INNER),
    }
    norms = ["embeddings.LayerNorm"]
    for layer in (f"encoder.layer.{i}" for i in range(LAYERS)):
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
        for name, shape in linears.items():
            arrays[f"{layer}.{name}.weight"] = rng.standard_normal(shape) * 0.2
            arrays[f"{layer}.{name}.bias"] = rng.standard_normal(shape[0]) * 0.3
    for name in norms:
        arrays[f"{name}.weight"] = rng.uniform(0.5, 1.5, HIDDEN)
        arrays[f"{name}.bias"] = rng.standard_normal(HIDDEN) * 0.3
    return {name: Buffer.borrow(array.astype(np.float32), name) for name, array in arrays.items()}


def encode(
    device: Device,
    steps: Sequence[Sequence[Sequence[int]]],
    *,
    dtype: str = "float32",
    quantization: str | None = None,
) -> NDArray[np.float32]:
    """Hidden states [T, E] of all prompts of all steps, one after the other."""
    config, precision = tiny_encoder_config(), Precision.of(device, dtype, quantization, is_encoder=True)
    tensors = tiny_encoder_tensors()
    loader = WeightLoader(device, tensors, tensors, precision, WHERE)
    weights = load_model(config, loader, MAX_MODEL_LEN, WHERE)
    assert isinstance(weights, EncoderWeights)
    runner = EncoderRunner(resolve(device, demand(config, weights)), weights)
    return np.concatenate([runner.execute(prompts) for prompts in steps])
