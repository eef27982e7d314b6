"""What a user can ask of an engine, in one frozen place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike

from rtp_core.errors import ConfigError
from rtp_core.memory.budget import MemoryBudget
from rtp_core.memory.tracer import TraceLevel, check_level


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Raises ConfigError for values no engine can have.

    device: "auto", kind, kind:index or kind@dist. dtype: "auto" (the device's fast path), "float32" (nothing
    quantized on the way), "bfloat16", "float16". quantization: a scheme for float weights, at load.
    max_model_len: tokens of prompt and output, default what the model was made for. memory_budget: device memory for
    everything: bytes, a share of what is free (0.6 or "60%"), or "all-2GiB"; see MemoryBudget. max_num_batched_tokens:
    tokens of one step over all requests; in an encoder's there is always room for one whole text. trace_memory:
    "tags" keeps every allocation and return, "stacks" also where in the code each comes from.
    disable_impl: names of overrides to leave out of the plan. prefer: "op=impl", to take first where it may serve,
    several of one op in the order given. require: ops that an override must serve. plan_lock: a file with the plan
    that this one must be. features: those of ops that requests may ask for. enforce_eager: run every decode step op by
    op, also where the device could record it once and replay it.
    """

    device: str = "auto"
    dtype: str = "auto"
    quantization: str | None = None
    max_model_len: int | None = None
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 1024
    memory_budget: int | float | str | None = None
    threads: int | None = None
    disable_impl: tuple[str, ...] = ()
    prefer: tuple[str, ...] = ()
    require: tuple[str, ...] = ()
    plan_lock: str | PathLike[str] | None = None
    features: tuple[str, ...] = ()
    allow_device_fallback: bool = False
    trace_memory: TraceLevel = "off"
    enforce_eager: bool = False

    def __post_init__(self) -> None:
        for name in ("max_model_len", "max_num_seqs", "max_num_batched_tokens", "threads"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ConfigError(f"{name} is {value!r}", why="expected a whole number of at least 1")
        if self.memory_budget is not None:
            MemoryBudget.parse(self.memory_budget)
        check_level(self.trace_memory)
        if self.dtype not in ("auto", "float32", "bfloat16", "float16"):
            raise ConfigError(f"dtype is {self.dtype!r}", why="expected auto, float32, bfloat16 or float16")
        for name in ("disable_impl", "prefer", "require", "features"):
            value = getattr(self, name)
            if isinstance(value, str) or not all(isinstance(item, str) and item for item in value):
                raise ConfigError(f"{name} is {value!r}", why="expected a sequence of names")
        for wish in self.prefer:
            op, _, impl = wish.partition("=")
            if not op or not impl:
                raise ConfigError(f"prefer is {wish!r}", why="expected op=implementation", hint="rtp devices explain")

    @property
    def preferred(self) -> Mapping[str, tuple[str, ...]]:
        """By op, the implementations of `prefer` in order."""
        pairs = [wish.split("=", 1) for wish in self.prefer]
        return {op: tuple(impl for o, impl in pairs if o == op) for op, _ in pairs}
