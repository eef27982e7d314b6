"""Sampling on the command line: what the user gave, then what the model's own files say, then our defaults."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from rtp_core.cli.console import note
from rtp_core.cli.options import option
from rtp_core.errors import CheckpointError, ConfigError
from rtp_core.request import SamplingParams

DEFAULT_TEMPERATURE = 0.7
_MODEL_DEFAULTS = ("temperature", "top_k", "top_p", "min_p")
_MODEL = "the model's default if not given"


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingOptions:
    """How tokens are chosen, and when they end."""

    max_tokens: Annotated[int, option("--max-tokens", "The most tokens to generate.")] = 256
    temperature: Annotated[
        float | None, option("--temperature", f"0 is greedy; {_MODEL}, or {DEFAULT_TEMPERATURE}.")
    ] = None
    top_k: Annotated[int | None, option("--top-k", f"Choose among the k most likely; {_MODEL}.")] = None
    top_p: Annotated[float | None, option("--top-p", f"Choose among the most likely that sum to p; {_MODEL}.")] = None
    min_p: Annotated[float | None, option("--min-p", f"Leave out those below p times the most likely; {_MODEL}.")] = (
        None
    )
    seed: Annotated[int | None, option("--seed", "Equal seeds, equal tokens; drawn if not given.")] = None
    stop: Annotated[list[str], option("--stop", "End before this text. Repeatable.")] = field(default_factory=list)
    ignore_eos: Annotated[bool, option("--ignore-eos", "Go on past the model's end of text.")] = False

    def check(self) -> None:
        """Raises ConfigError for nonsense, before a model is loaded for nothing."""
        SamplingParams(**self._given())

    def params(self, generation_config: Mapping[str, Any], where: str) -> SamplingParams:
        """With the model's defaults for what the user left open. Raises ConfigError; CheckpointError for theirs."""
        defaults = _model_defaults(generation_config, where)
        given = self._given()
        given.setdefault("seed", secrets.randbits(32))  # drawn here, so that the output can name it
        return SamplingParams(**{"temperature": DEFAULT_TEMPERATURE, **defaults, **given})

    def _given(self) -> dict[str, Any]:
        names = ("max_tokens", *_MODEL_DEFAULTS, "seed", "stop", "ignore_eos")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


def _model_defaults(generation_config: Mapping[str, Any], where: str) -> dict[str, Any]:
    defaults = {name: generation_config[name] for name in _MODEL_DEFAULTS if name in generation_config}
    if generation_config.get("do_sample") is False:
        defaults["temperature"] = 0.0
    if generation_config.get("repetition_penalty", 1.0) != 1.0:
        note("the model's generation_config has a repetition_penalty, which is not applied")
    try:
        SamplingParams(**defaults)
    except ConfigError as error:
        raise CheckpointError("bad generation_config", where=where, why=f"{error.what}: {error.why}") from error
    return defaults
