"""The limits of the scheduler."""

from __future__ import annotations

from dataclasses import dataclass

from rtp_core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """Bounds of one step and of one request. Raises ConfigError for values that cannot work.

    max_num_seqs: requests that run at the same time.
    max_num_batched_tokens: tokens in one step; at least max_num_seqs, so that every decode fits into every step.
    max_model_len: prompt and output tokens of one request.
    """

    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int

    def __post_init__(self) -> None:
        for name in ("max_num_seqs", "max_num_batched_tokens", "max_model_len"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"{name} is {value!r}", why="expected an integer of at least 1")
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ConfigError(
                f"max_num_batched_tokens is {self.max_num_batched_tokens}",
                why=f"expected at least max_num_seqs, {self.max_num_seqs}: every running request gets a token",
                hint="raise --max-num-batched-tokens or lower --max-num-seqs",
            )
