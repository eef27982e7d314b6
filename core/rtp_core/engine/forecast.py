"""What a start would take of a device's memory, told without one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rtp_core.checkpoint.checkpoint import Checkpoint
from rtp_core.config import check_model_type
from rtp_core.engine.engine_config import EngineConfig
from rtp_core.engine.fitting import check_fits, kv_blocks
from rtp_core.engine.loading import open_for
from rtp_core.engine.memory_need import MemoryNeed, expected_need
from rtp_core.engine.setting import Setting
from rtp_core.errors import OutOfMemoryError
from rtp_core.models.model import MODELS


@dataclass(frozen=True, slots=True)
class Forecast:
    """`kv_tokens`: what the KV cache would hold; 0 with a `problem`, which says why the model does not fit."""

    device: str
    need: MemoryNeed
    kv_tokens: int
    budget_bytes: int
    problem: str


def forecast(
    checkpoint: Checkpoint, options: Mapping[str, Any], *, info: Callable[[str], None] = lambda line: None
) -> Forecast:
    """For an engine of these options of EngineConfig. Reads headers, and opens the device without using its memory.

    Raises ConfigError, ModelError or DeviceError.
    """
    check_model_type(checkpoint.config.model_type, MODELS, str(checkpoint.path))
    config = EngineConfig(**options)
    device = open_for(config, info)
    try:
        setting = Setting.of(checkpoint, device, config)
        need = expected_need(device, setting)
        problem, tokens = "", 0
        try:
            check_fits(device, setting, need)
            room = device.arena.stats().total_bytes - need.weights_bytes
            tokens = kv_blocks(setting, need, room) * need.block_size
        except OutOfMemoryError as error:
            problem = f"{error.what}: {error.why} ({error.hint})"
        return Forecast(device.info.id, need, tokens, device.arena.stats().total_bytes, problem)
    finally:
        device.close()
