"""From a model's name to a running engine: resolve, open, check, load, plan, cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rtp_core.checkpoint.checkpoint import Checkpoint
from rtp_core.checkpoint.opening import open_checkpoint
from rtp_core.config import ModelConfig, check_model_type
from rtp_core.device.borrowed import borrowed_notice
from rtp_core.device.device import Device
from rtp_core.device.manifest import DeviceConfig
from rtp_core.device.opening import open_device
from rtp_core.device.plan import Plan, resolve
from rtp_core.device.plan_lock import SavedPlan, check_lock, check_required, read_plan
from rtp_core.engine.engine import Engine
from rtp_core.engine.engine_config import EngineConfig
from rtp_core.errors import CheckpointError, ConfigError, ContractError
from rtp_core.kv.block_manager import BlockManager
from rtp_core.kv.kv_cache import KVCache, fitting_blocks
from rtp_core.models.model import MODELS, demand, demand_of_header, load_model
from rtp_core.models.weight_loader import WeightLoader
from rtp_core.models.weight_reader import Precision
from rtp_core.runner.model_runner import ModelRunner
from rtp_core.scheduler.scheduler import Scheduler
from rtp_core.scheduler.scheduler_config import SchedulerConfig
from rtp_core.text.tokenizer import Tokenizer

Loading = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """An engine with the parts that its users ask about."""

    engine: Engine
    checkpoint: Checkpoint
    tokenizer: Tokenizer
    device: Device
    plan: Plan
    max_model_len: int
    eos_token_ids: frozenset[int]


def load_engine(
    path: Path,
    config: EngineConfig,
    *,
    progress: Loading = lambda done, total: None,
    info: Callable[[str], None] = lambda line: None,
) -> LoadedEngine:
    """Open the model at `path` on a device. Nothing is left open when it raises.

    `progress(done, total)` counts bytes of weights. Raises any RtpError.
    """
    locked = None if config.plan_lock is None else read_plan(config.plan_lock)
    checkpoint = open_checkpoint(path)
    check_model_type(checkpoint.config.model_type, MODELS, str(path))
    max_model_len = _max_model_len(checkpoint.config, config.max_model_len)
    if checkpoint.tokenizer is None:
        raise CheckpointError(
            "the model has no tokenizer", where=str(path), why="expected tokenizer.json or GGUF metadata"
        )
    tokenizer = Tokenizer.from_source(checkpoint.tokenizer)
    device = open_device(
        config.device,
        DeviceConfig(config.threads, config.memory_budget),
        allow_fallback=config.allow_device_fallback,
        info=info,
    )
    if device.borrowed:
        info(borrowed_notice(device))
    try:
        return _load(checkpoint, tokenizer, device, max_model_len, config, locked, progress)
    except BaseException:
        device.close()
        raise


def _load(
    checkpoint: Checkpoint,
    tokenizer: Tokenizer,
    device: Device,
    max_model_len: int,
    config: EngineConfig,
    locked: SavedPlan | None,
    progress: Loading,
) -> LoadedEngine:
    where = str(checkpoint.path)
    precision = Precision.of(device, config.dtype, config.quantization)
    plan = _plan(checkpoint, device, precision, config, locked)
    loader = WeightLoader(device, checkpoint.tensors, precision, where, progress)
    weights = load_model(checkpoint.config, loader, max_model_len, where)
    if demand(checkpoint.config, weights) != plan.demand:
        raise ContractError("prepared weights are not of the scheme they were given in", where=device.info.id)
    wanted = config.max_num_seqs * max_model_len
    num_blocks = fitting_blocks(device, checkpoint.config, precision.dtype, wanted)
    cache = KVCache(device, checkpoint.config, precision.dtype, num_blocks)
    limits = SchedulerConfig(
        # Every running request gets a token in every step, so no more of them run than a step has tokens.
        max_num_seqs=min(config.max_num_seqs, config.max_num_batched_tokens),
        max_num_batched_tokens=config.max_num_batched_tokens,
        max_model_len=max_model_len,
    )
    scheduler = Scheduler(limits, BlockManager(num_blocks, cache.block_size))
    engine = Engine(scheduler, ModelRunner(plan, weights, cache), tokenizer)
    eos = frozenset(
        (
            *checkpoint.config.eos_token_ids,
            *checkpoint.generation_config.get("eos_token_ids", ()),
            *tokenizer.eos_token_ids,
        )
    )
    return LoadedEngine(engine, checkpoint, tokenizer, device, plan, max_model_len, eos)


def _plan(
    checkpoint: Checkpoint, device: Device, precision: Precision, config: EngineConfig, locked: SavedPlan | None
) -> Plan:
    """The plan, before any weight is read: what is locked or required fails at once."""
    wanted = demand_of_header(checkpoint.config, checkpoint.header, precision, device.manifest, str(checkpoint.path))
    plan = resolve(
        device,
        wanted,
        disabled=frozenset(config.disable_impl),
        preferred=config.preferred,
        dynamic=frozenset(config.features),
    )
    check_required(plan, config.require)
    if locked is not None:
        check_lock(plan, locked)
    return plan


def _max_model_len(config: ModelConfig, asked: int | None) -> int:
    # Within its window a sliding attention is a full one; beyond it rtp would compute another model.
    limit = min(config.max_position_embeddings, config.sliding_window or config.max_position_embeddings)
    if asked is not None and asked > limit:
        raise ConfigError(f"max_model_len is {asked}", why=f"this model goes up to {limit} tokens")
    return asked or limit
