"""What a user can ask of an engine, in one frozen place."""

from __future__ import annotations

from dataclasses import dataclass

from rtp_core.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Raises ConfigError for values no engine can have.

    device: "auto", kind, kind:index or kind@dist. dtype: "auto" (the device's fast path), "float32" (nothing
    quantized on the way), "bfloat16", "float16". quantization: a scheme for float weights, at load.
    max_model_len: tokens of prompt and output, default what the model was made for. memory_budget: bytes of
    device memory for everything. max_num_batched_tokens: tokens of one step over all requests.
    disable_impl: names of overrides to leave out of the plan.
    """

    device: str = "auto"
    dtype: str = "auto"
    quantization: str | None = None
    max_model_len: int | None = None
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 1024
    memory_budget: int | None = None
    threads: int | None = None
    disable_impl: tuple[str, ...] = ()
    allow_device_fallback: bool = False

    def __post_init__(self) -> None:
        for name in ("max_model_len", "max_num_seqs", "max_num_batched_tokens", "memory_budget", "threads"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ConfigError(f"{name} is {value!r}", why="expected a whole number of at least 1")
        if self.dtype not in ("auto", "float32", "bfloat16", "float16"):
            raise ConfigError(f"dtype is {self.dtype!r}", why="expected auto, float32, bfloat16 or float16")
