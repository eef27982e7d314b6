"""What is asked for, and what comes back: sampling parameters, the request, its outputs.

A request has counters and no phases: what is computed, and (in a batch) what is scheduled next.
"""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, Literal

from rtp_core.errors import ConfigError

MAX_COMPLETIONS = 1024  # of one prompt
MAX_LOGPROBS = 1024  # per token: past this a dict per token costs more than the model
MAX_TEMPERATURE = 1e6  # uniform for any model, and logits / temperature stays exact enough in float32
MAX_SEED = 2**64 - 1  # one word of a Philox key
MAX_COUNT = 2**31 - 1  # of tokens or ids: an int32 on every device

FinishReason = Literal["stop", "length", "abort"]
TokenLogprobs = dict[int, float]
"""Token id -> natural log probability in the model's own distribution: one token and the top k beside it."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the tokens of one request are chosen, and when they end. Raises ConfigError for bad values.

    temperature: 0 is greedy; then top_k, top_p, min_p and seed have no effect.
    top_k: 0 or -1 is off (kept as 0). top_p, min_p: 1 and 0 are off.
    seed: None means that the engine draws one.
    stop: one string or several; kept as a tuple. The text ends before them.
    max_tokens: None means up to the model's length.
    logprobs: for each generated token its own log probability and the top k; 0 its own alone, None is off.
    prompt_logprobs: the same for each prompt token but the first. Both at most MAX_LOGPROBS.
    """

    n: int = 1
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None
    stop: Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    max_tokens: int | None = 16
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None

    def __post_init__(self) -> None:
        self._set("n", _integer("n", self.n, 1, MAX_COMPLETIONS))
        self._set("temperature", _real("temperature", self.temperature, MAX_TEMPERATURE))
        self._set("top_k", max(0, _integer("top_k", self.top_k, -1, MAX_COUNT)))
        self._set("top_p", _real("top_p", self.top_p, 1.0, above_zero=True))
        self._set("min_p", _real("min_p", self.min_p, 1.0))
        self._set("seed", _optional("seed", self.seed, 0, MAX_SEED))
        self._set("stop", _strings("stop", self.stop))
        self._set("stop_token_ids", _token_ids("stop_token_ids", self.stop_token_ids))
        self._set("max_tokens", _optional("max_tokens", self.max_tokens, 1, MAX_COUNT))
        if not isinstance(self.ignore_eos, bool):
            raise _bad("ignore_eos", self.ignore_eos, "True or False")
        self._set("logprobs", _optional("logprobs", self.logprobs, 0, MAX_LOGPROBS))
        self._set("prompt_logprobs", _optional("prompt_logprobs", self.prompt_logprobs, 0, MAX_LOGPROBS))

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0.0

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)


@dataclass(slots=True, eq=False, kw_only=True)
class Request:
    """One prompt on its way to one completion. Compared by identity.

    `seed` is `sampling.seed`, or what the engine drew in its place. `arrival` is set by the scheduler, which
    alone changes the counters and the outputs. Of `num_tokens` known tokens the first `num_computed_tokens`
    have their keys and values in the cache.
    """

    request_id: str
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams
    seed: int
    eos_token_ids: frozenset[int] = frozenset()
    priority: int = 0  # lower is served first
    features: frozenset[str] = frozenset()  # of ops, that this request needs: the step's plan must handle them
    arrival: int = 0
    output_token_ids: list[int] = field(default_factory=list)
    num_computed_tokens: int = 0
    num_preemptions: int = 0
    finish_reason: FinishReason | None = None

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.prompt_token_ids)

    @property
    def num_tokens(self) -> int:
        """Prompt and output tokens known so far."""
        return len(self.prompt_token_ids) + len(self.output_token_ids)

    @property
    def is_finished(self) -> bool:
        return self.finish_reason is not None

    def token_ids(self, start: int, stop: int) -> tuple[int, ...]:
        """Tokens [start, stop) of prompt and output together; copies those alone. Raises IndexError outside them."""
        if not 0 <= start <= stop <= self.num_tokens:
            raise IndexError(f"tokens {start} to {stop} of request {self.request_id!r}, which has {self.num_tokens}")
        num_prompt = len(self.prompt_token_ids)
        if stop <= num_prompt:
            return self.prompt_token_ids[start:stop]
        output = self.output_token_ids[max(0, start - num_prompt) : stop - num_prompt]
        return (*self.prompt_token_ids[start:], *output)


@dataclass(frozen=True, slots=True)
class CompletionOutput:
    """One completion. `text` has no special tokens and no stop string; `token_ids` keep an EOS that ended it."""

    index: int
    text: str
    token_ids: list[int]
    finish_reason: FinishReason | None
    logprobs: list[TokenLogprobs] | None = None


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """One prompt and its completions; `text` and the like mean the first. `prompt` is None for token-id prompts."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    prompt_logprobs: list[TokenLogprobs | None] | None = None

    @property
    def text(self) -> str:
        return self.outputs[0].text

    @property
    def token_ids(self) -> list[int]:
        return self.outputs[0].token_ids

    @property
    def finish_reason(self) -> FinishReason | None:
        return self.outputs[0].finish_reason

    @property
    def logprobs(self) -> list[TokenLogprobs] | None:
        return self.outputs[0].logprobs


@dataclass(frozen=True, slots=True)
class EmbeddingOutput:
    """One text and its embedding. `prompt` is None for token-id prompts; a text may have been cut to fit the model."""

    prompt: str | None
    prompt_token_ids: list[int]
    embedding: list[float]


def _bad(name: str, got: object, expected: str) -> ConfigError:
    return ConfigError(f"{name} is {reprlib.repr(got)}", where="sampling parameters", why=f"expected {expected}")


def _integer(name: str, value: object, low: int, high: int, also: str = "") -> int:
    # NumPy's integers are welcome; bool is an Integral too, and here always a mistake.
    if not isinstance(value, Integral) or isinstance(value, bool) or not low <= int(value) <= high:
        raise _bad(name, value, f"an integer from {low} to {high}{also}")
    return int(value)


def _optional(name: str, value: object, low: int, high: int) -> int | None:
    return None if value is None else _integer(name, value, low, high, " or None")


def _real(name: str, value: Any, high: float, *, above_zero: bool = False) -> float:
    # The range also rejects NaN and infinity, and integers too large for a float.
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= high or (above_zero and value == 0):
        raise _bad(name, value, f"a number {'above' if above_zero else 'from'} 0, up to {high:g}")
    return float(value)


def _strings(name: str, value: object) -> tuple[str, ...]:
    strings = (value,) if isinstance(value, str) else value
    if not isinstance(strings, Sequence) or not all(isinstance(s, str) and s for s in strings):
        raise _bad(name, value, "a string or a sequence of strings, none of them empty")
    return tuple(strings)


def _token_ids(name: str, value: object) -> tuple[int, ...]:
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise _bad(name, value, "a sequence of token ids")
    return tuple(_integer(f"{name}[{i}]", token_id, 0, MAX_COUNT) for i, token_id in enumerate(value))
