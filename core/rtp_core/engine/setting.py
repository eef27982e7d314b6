"""What an EngineConfig means for one model on one device."""

from __future__ import annotations

from dataclasses import dataclass

from rtp_core.checkpoint.checkpoint import Checkpoint
from rtp_core.config import ModelConfig
from rtp_core.device.device import Device
from rtp_core.device.plan import Plan, resolve
from rtp_core.dtypes import DType
from rtp_core.engine.engine_config import EngineConfig
from rtp_core.errors import ConfigError
from rtp_core.kv.kv_cache import cache_dtype
from rtp_core.models.model import demand_of_header
from rtp_core.models.weight_reader import Precision
from rtp_core.scheduler.scheduler_config import SchedulerConfig


@dataclass(frozen=True, slots=True)
class Setting:
    """`where` names the model in errors."""

    checkpoint: Checkpoint
    config: EngineConfig
    precision: Precision
    limits: SchedulerConfig

    @classmethod
    def of(cls, checkpoint: Checkpoint, device: Device, config: EngineConfig) -> Setting:
        """Raises ConfigError for what the model or the device does not have."""
        length, step = max_model_len(checkpoint.config, config.max_model_len), config.max_num_batched_tokens
        is_encoder = checkpoint.config.is_encoder
        if is_encoder:
            step = max(step, length)  # a text cannot be read in parts
        # Every running request gets a token in every step, so no more of them run than a step has tokens.
        limits = SchedulerConfig(min(config.max_num_seqs, step), step, length)
        precision = Precision.of(device, config.dtype, config.quantization, is_encoder=is_encoder)
        return cls(checkpoint, config, precision, limits)

    @property
    def where(self) -> str:
        return str(self.checkpoint.path)

    def why_eager(self, device: Device) -> str:
        """Why decode steps are not to be recorded and replayed, or ""."""
        if self.config.enforce_eager:
            return "enforce_eager"
        if self.limits.max_model_len <= 2:
            return "no request within max_model_len has one"
        if self.config.trace_memory != "off":
            return "the trace of memory is of their ops"
        return "" if device.capture(lambda: None) else "this device records no steps"

    def kv_dtype(self, device: Device) -> DType:
        """What keys and values are stored in."""
        return cache_dtype(device.kv_layout, self.precision.dtype, is_fast=self.precision.keeps_storage)

    def replay_sizes(self, block_size: int) -> dict[str, int]:
        """The largest decode step, in DecodeReplay's words."""
        limits = self.limits
        return {"max_num_seqs": limits.max_num_seqs, "max_num_blocks": -(-limits.max_model_len // block_size)}

    def plan(self, device: Device) -> Plan:
        """Resolved from the checkpoint's header: no weight is read."""
        config = self.config
        return resolve(
            device,
            demand_of_header(
                self.checkpoint.config, self.checkpoint.header, self.precision, device.manifest, self.where
            ),
            disabled=frozenset(config.disable_impl),
            preferred=config.preferred,
            dynamic=frozenset(config.features),
        )


def max_model_len(config: ModelConfig, asked: int | None) -> int:
    """Tokens of prompt and output. Raises ConfigError for more than the model goes up to."""
    # Within its window a sliding attention is a full one; beyond it rtp would compute another model.
    limit = min(config.max_position_embeddings, config.sliding_window or config.max_position_embeddings)
    if asked is not None and asked > limit:
        raise ConfigError(f"max_model_len is {asked}", why=f"this model goes up to {limit} tokens")
    return asked or limit
