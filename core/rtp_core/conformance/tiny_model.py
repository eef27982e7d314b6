"""Small random models, made in memory, and the loop that runs one on a device as the engine would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rtp_core.config import ModelConfig
from rtp_core.device.device import Device
from rtp_core.device.plan import resolve
from rtp_core.device.weights import ModelWeights
from rtp_core.kv.block_manager import BlockManager
from rtp_core.kv.kv_cache import KVCache, cache_dtype
from rtp_core.memory.buffer import Buffer
from rtp_core.models.model import demand, load_model
from rtp_core.models.weight_loader import WeightLoader
from rtp_core.models.weight_reader import Precision
from rtp_core.request import Request, SamplingParams, TokenLogprobs
from rtp_core.runner.model_runner import ModelRunner
from rtp_core.scheduler.scheduler import Scheduler
from rtp_core.scheduler.scheduler_config import SchedulerConfig

WHERE = "the suite's own model"
MAX_MODEL_LEN = 128
VOCAB, HIDDEN, INNER, HEADS, KV_HEADS, DIM, LAYERS = 96, 64, 96, 4, 2, 16, 2


@dataclass(frozen=True, slots=True)
class Generated:
    """Of one request: its greedy tokens, each with its best two, and the log probabilities of its prompt's tokens."""

    token_ids: list[int]
    best: list[TokenLogprobs]
    prompt_logprobs: dict[int, float]


def tiny_config(model_type: str, unit: int = 1) -> ModelConfig:
    """`unit`: what the columns of every matrix are a multiple of, so that a scheme can have them."""
    hidden, inner, heads = (-(-size // unit) * unit for size in (HIDDEN, INNER, HEADS * DIM))
    fields = {
        "model_type": model_type,
        "vocab_size": VOCAB,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": heads // HEADS,
        "max_position_embeddings": MAX_MODEL_LEN,
        "tie_word_embeddings": model_type == "llama",
    }
    return ModelConfig.checked(fields, WHERE)


def tiny_tensors(config: ModelConfig) -> dict[str, Buffer]:
    """Random weights under Hugging Face's names, such that next-token distributions are not flat."""
    rng = np.random.default_rng(17)
    hidden, inner = config.hidden_size, config.intermediate_size
    q_size, kv_size = HEADS * config.head_dim, KV_HEADS * config.head_dim
    matrices = {
        "self_attn.q_proj": (q_size, hidden),
        "self_attn.k_proj": (kv_size, hidden),
        "self_attn.v_proj": (kv_size, hidden),
        "self_attn.o_proj": (hidden, q_size),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    narrow = (HIDDEN / hidden) ** 0.5  # wider matrices of smaller numbers give states of the same size
    arrays = {"model.embed_tokens.weight": rng.standard_normal((VOCAB, hidden)) * 0.3 * narrow}
    arrays["model.norm.weight"] = rng.uniform(0.5, 1.5, hidden)
    if not config.tie_word_embeddings:
        arrays["lm_head.weight"] = rng.standard_normal((VOCAB, hidden)) * 0.3 * narrow
    for i in range(LAYERS):
        layer = f"model.layers.{i}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            arrays[f"{layer}.{norm}.weight"] = rng.uniform(0.5, 1.5, hidden)
        for name, shape in matrices.items():
            arrays[f"{layer}.{name}.weight"] = rng.standard_normal(shape) * 0.2 * narrow
            if config.model_type == "qwen2" and name.rpartition(".")[2] in ("q_proj", "k_proj", "v_proj"):
                arrays[f"{layer}.{name}.bias"] = rng.standard_normal(shape[0]) * 0.3
    return {name: Buffer.borrow(array.astype(np.float32), name) for name, array in arrays.items()}


def generate(
    device: Device,
    config: ModelConfig,
    prompts: Sequence[Sequence[int]],
    *,
    dtype: str,
    quantization: str | None = None,
    num_tokens: int,
    max_num_batched_tokens: int,
) -> list[Generated]:
    """Greedy tokens of every prompt, all of them in one continuous batch."""
    precision = Precision.of(device, dtype, quantization)
    tensors = tiny_tensors(config)
    loader = WeightLoader(device, tensors, tensors, precision, WHERE)
    weights = load_model(config, loader, MAX_MODEL_LEN, WHERE)
    assert isinstance(weights, ModelWeights)
    plan = resolve(device, demand(config, weights))
    size = device.kv_layout.block_size
    num_blocks = len(prompts) * -(-MAX_MODEL_LEN // size)
    kv_dtype = cache_dtype(device.kv_layout, precision.dtype, is_fast=precision.keeps_storage)
    cache = KVCache(device, config, kv_dtype, num_blocks)
    limits = SchedulerConfig(len(prompts), max_num_batched_tokens, MAX_MODEL_LEN)
    scheduler, runner = Scheduler(limits, BlockManager(num_blocks, size)), ModelRunner(plan, weights, cache)
    sampling = SamplingParams(temperature=0, max_tokens=num_tokens, ignore_eos=True, logprobs=2, prompt_logprobs=0)
    requests = [
        Request(request_id=str(i), prompt_token_ids=tuple(p), sampling=sampling, seed=0) for i, p in enumerate(prompts)
    ]
    found = {r.request_id: Generated(r.output_token_ids, [], {}) for r in requests}
    for request in requests:
        scheduler.add(request)
    while scheduler.has_unfinished:
        batch = scheduler.schedule()
        result = runner.execute(batch)
        scheduler.update(batch, result.token_ids)
        for scheduled, best, prompt in zip(batch.requests, result.logprobs, result.prompt_logprobs, strict=True):
            own, ids = found[scheduled.request.request_id], scheduled.request.prompt_token_ids
            own.best.extend([best] if best else [])
            own.prompt_logprobs.update({at: top[ids[at]] for at, top in prompt.items()})
    return list(found.values())
