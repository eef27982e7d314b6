"""From a model's name to a running engine: resolve, open, check, load, plan, cache."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from rtp_core.checkpoint.checkpoint import Checkpoint
from rtp_core.checkpoint.opening import open_checkpoint
from rtp_core.config import check_model_type
from rtp_core.device.borrowed import borrowed_notice
from rtp_core.device.device import Device
from rtp_core.device.failure import Failures
from rtp_core.device.loader import Plugin
from rtp_core.device.manifest import DeviceConfig, DeviceInfo
from rtp_core.device.opening import create, find
from rtp_core.device.plan import Plan
from rtp_core.device.plan_lock import SavedPlan, check_lock, check_required, read_plan
from rtp_core.device.probing import Prober
from rtp_core.device.weights import EncoderWeights, ModelWeights
from rtp_core.engine.embedder import Embedder
from rtp_core.engine.engine import Engine
from rtp_core.engine.engine_config import EngineConfig
from rtp_core.engine.fitting import check_fits, failed_warm_up, kv_blocks
from rtp_core.engine.memory_need import MemoryNeed, expected_need, worst_work_space
from rtp_core.engine.setting import Setting, max_model_len
from rtp_core.errors import CheckpointError, ContractError, LibraryMemoryError, OutOfMemoryError
from rtp_core.kv.block_manager import BlockManager
from rtp_core.kv.kv_cache import KVCache
from rtp_core.memory.budget import MemoryBudget
from rtp_core.memory.space import give_back_free_memory
from rtp_core.models.model import MODELS, Weights, demand, load_model
from rtp_core.models.weight_loader import WeightLoader
from rtp_core.runner.decode_replay import DecodeReplay
from rtp_core.runner.encoder_runner import EncoderRunner
from rtp_core.runner.model_runner import ModelRunner
from rtp_core.scheduler.scheduler import Scheduler
from rtp_core.text.tokenizer import Cut, Tokenizer

Loading = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """An engine, or of an encoder an embedder, with the parts that its users ask about."""

    engine: Engine | Embedder
    checkpoint: Checkpoint
    tokenizer: Tokenizer
    device: Device
    plan: Plan
    max_model_len: int
    eos_token_ids: frozenset[int]
    need: MemoryNeed
    kv_tokens: int  # that the KV cache holds; 0 for an encoder, which has none
    why_eager: str  # why decode steps run op by op, or "": they are recorded and replayed


def load_engine(
    path: Path,
    config: EngineConfig,
    *,
    progress: Loading = lambda done, total: None,
    info: Callable[[str], None] = lambda line: None,
    prober: Prober | None = None,
) -> LoadedEngine:
    """Open the model at `path` on a device. Nothing is left open when it raises.

    `progress(done, total)` counts bytes of weights; `prober` may have been started before. Raises any RtpError.
    """
    locked = None if config.plan_lock is None else read_plan(config.plan_lock)
    with ThreadPoolExecutor(1) as aside:  # probing waits for a process: the files are read meanwhile
        finding = aside.submit(
            find, config.device, allow_fallback=config.allow_device_fallback, info=info, prober=prober
        )
        checkpoint = open_checkpoint(path)
        check_model_type(checkpoint.config.model_type, MODELS, str(path))
        max_model_len(checkpoint.config, config.max_model_len)
        if checkpoint.tokenizer is None:
            raise CheckpointError(
                "the model has no tokenizer", where=str(path), why="expected tokenizer.json or GGUF metadata"
            )
        tokenizer = Tokenizer.from_source(checkpoint.tokenizer, _cut(checkpoint, config))
        checkpoint = replace(checkpoint, tokenizer=None)  # tables as large as what has been made of them
        give_back_free_memory()
    device = _create(*finding.result(), config, info)
    try:
        with Failures(device):
            loaded = _load(checkpoint, tokenizer, device, config, locked, progress)
    except BaseException:
        device.close()
        raise
    if loaded.why_eager and not config.enforce_eager:
        info(f"{device.info.id}: decode steps run op by op: {loaded.why_eager}")
    return loaded


def open_for(config: EngineConfig, info: Callable[[str], None]) -> Device:
    """The device that a config asks for, with its budget and its trace. Raises DeviceError, ConfigError."""
    return _create(*find(config.device, allow_fallback=config.allow_device_fallback, info=info), config, info)


def _create(plugin: Plugin, found: DeviceInfo, config: EngineConfig, info: Callable[[str], None]) -> Device:
    device = create(plugin, found, DeviceConfig(config.threads, _budget(config, found)))
    if device.borrowed:
        info(borrowed_notice(device))
    device.arena.trace(config.trace_memory)
    return device


def _budget(config: EngineConfig, found: DeviceInfo) -> int | None:
    if config.memory_budget is None:
        return None
    return MemoryBudget.parse(config.memory_budget).of(found.memory_free_bytes)


def _load(
    checkpoint: Checkpoint,
    tokenizer: Tokenizer,
    device: Device,
    config: EngineConfig,
    locked: SavedPlan | None,
    progress: Loading,
) -> LoadedEngine:
    setting = Setting.of(checkpoint, device, config)
    plan = setting.plan(device)
    check_required(plan, config.require)
    if locked is not None:
        check_lock(plan, locked)
    need = expected_need(device, setting, plan)
    check_fits(device, setting, need)
    weights = _load_weights(device, setting, plan, progress)
    need = _warmed_up(device, setting, plan, weights, need)
    engine: Engine | Embedder
    why_eager = ""
    if isinstance(weights, EncoderWeights):
        assert checkpoint.embedding is not None  # every encoder's checkpoint has it
        engine, kv_tokens = Embedder(EncoderRunner(plan, weights), checkpoint.embedding, setting.limits), 0
        _trim(device, setting, need)
    else:
        cache = _kv_cache(device, setting, need)
        _trim(device, setting, need)
        kv_tokens = cache.num_blocks * cache.block_size
        scheduler = Scheduler(setting.limits, BlockManager(cache.num_blocks, cache.block_size))
        why_eager = setting.why_eager(device)
        replay = None if why_eager else _decode_replay(setting, plan, weights, cache, need)
        if replay is not None and replay.problem:
            why_eager, replay = replay.problem, None  # its memory goes back
        engine = Engine(scheduler, ModelRunner(plan, weights, cache, replay), tokenizer)
    eos = frozenset(
        (
            *checkpoint.config.eos_token_ids,
            *checkpoint.generation_config.get("eos_token_ids", ()),
            *tokenizer.eos_token_ids,
        )
    )
    return LoadedEngine(
        engine,
        replace(checkpoint, tensors={}, header={}),  # the files are let go
        tokenizer,
        device,
        plan,
        setting.limits.max_model_len,
        eos,
        need,
        kv_tokens,
        why_eager,
    )


def _cut(checkpoint: Checkpoint, config: EngineConfig) -> Cut | None:
    """What an encoder's files say about texts, within what the model can read."""
    if checkpoint.embedding is None:
        return None
    longest = max_model_len(checkpoint.config, config.max_model_len)
    return Cut(min(longest, checkpoint.embedding.max_seq_length or longest), checkpoint.embedding.do_lower_case)


def _load_weights(device: Device, setting: Setting, plan: Plan, progress: Loading) -> Weights:
    device.arena.begin_step("load", {})
    checkpoint, where = setting.checkpoint, setting.where
    with device.arena.lifetime("persistent"):
        loader = WeightLoader(device, checkpoint.tensors, checkpoint.header, setting.precision, where, progress)
        weights = load_model(checkpoint.config, loader, setting.limits.max_model_len, where)
    give_back_free_memory()
    if demand(checkpoint.config, weights) != plan.demand:
        raise ContractError("prepared weights are not of the scheme they were given in", where=device.info.id)
    return weights


def _warmed_up(device: Device, setting: Setting, plan: Plan, weights: Weights, need: MemoryNeed) -> MemoryNeed:
    """With the weights as they lie now, and the work space measured where no rehearsal could tell it."""
    stats = device.arena.stats()
    need = replace(need, weights_bytes=stats.total_bytes - stats.last_hole_bytes)  # holes between them serve no block
    if need.work_space_bytes is None:
        device.arena.begin_step("warm-up", {})
        try:
            worst = worst_work_space(device, plan, weights, setting)
            need = replace(
                need,
                work_space_bytes=worst.step_bytes,
                replay_bytes=worst.replay_bytes,
                filler_bytes=worst.filler_bytes,
            )
        except LibraryMemoryError:
            raise  # a larger budget would leave less for them
        except OutOfMemoryError as failure:
            raise failed_warm_up(device, need, failure) from failure
    check_fits(device, setting, need)
    return need


def _kv_cache(device: Device, setting: Setting, need: MemoryNeed) -> KVCache:
    """As many blocks as there is room for beside weights and work space."""
    num_blocks = kv_blocks(setting, need, device.arena.stats().last_hole_bytes)
    with device.arena.lifetime("persistent"):
        dtype, has_filler = setting.kv_dtype(device), need.filler_bytes > 0
        cache = KVCache(device, setting.checkpoint.config, dtype, num_blocks, has_filler=has_filler)
    device.arena.tracer.kv = cache.grid
    return cache


def _trim(device: Device, setting: Setting, need: MemoryNeed) -> None:
    """Give up what was reserved without being asked for, and will not be needed."""
    if setting.config.memory_budget is None and device.space.host_addressable:
        device.arena.trim(need.run_bytes)


def _decode_replay(
    setting: Setting, plan: Plan, weights: ModelWeights, cache: KVCache, need: MemoryNeed
) -> DecodeReplay:
    ops = plan.ops("decode")
    ops.arena.begin_step("load", {})
    nbytes, sizes = need.replay_bytes - need.filler_bytes, setting.replay_sizes(cache.block_size)
    return DecodeReplay(ops, weights, cache, nbytes=nbytes, **sizes)
