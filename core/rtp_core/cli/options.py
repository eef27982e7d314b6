"""How options are declared: once each, with their environment variable; and those that commands share.

A group of options is a dataclass; a command takes it as one parameter and is decorated with `with_options`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, is_dataclass
from functools import wraps
from typing import Annotated, Any, get_type_hints

import typer

from rtp_core.checkpoint import hub
from rtp_core.engine.engine_config import EngineConfig

_ENGINE = EngineConfig()


def option(flag: str, help: str, **settings: Any) -> Any:
    """One option; `--max-tokens` can also be given as RTP_MAX_TOKENS."""
    name = flag.partition("/")[0].strip("-").replace("-", "_").upper()
    return typer.Option(flag, help=help, envvar=f"RTP_{name}", **settings)


def _remember(context: typer.Context, value: bool) -> bool:
    # For the outermost command, which reports errors.
    context.meta.update({"rtp.debug": value, "rtp.command": context.command_path})
    return value


Json = Annotated[bool, option("--json", "One JSON document on standard output.")]
Debug = Annotated[bool, option("--debug", "Show the traceback of an error.", callback=_remember, is_eager=True)]


@dataclass(frozen=True, kw_only=True)
class PlaceOptions:
    """Which model, and where it runs."""

    model: Annotated[str, option("--model", "A folder, a GGUF file, a name of `rtp models ls`, or repo/id.")] = (
        hub.DEFAULT_MODEL
    )
    device: Annotated[str, option("--device", "auto, kind, kind:index or kind@dist.")] = _ENGINE.device


@dataclass(frozen=True, kw_only=True)
class LimitOptions:
    """In which precision a model runs, and what it may take."""

    dtype: Annotated[str, option("--dtype", "auto, float32, bfloat16 or float16.")] = _ENGINE.dtype
    quantization: Annotated[str | None, option("--quantization", "Quantize float weights at load, as q8_0.")] = None
    threads: Annotated[int | None, option("--threads", "Host threads; the device's own choice if not given.")] = None
    max_model_len: Annotated[
        int | None, option("--max-model-len", "Tokens of prompt and output; the model's own limit if not given.")
    ] = None
    max_num_seqs: Annotated[int, option("--max-num-seqs", "Requests that run at once.")] = _ENGINE.max_num_seqs
    max_num_batched_tokens: Annotated[int, option("--max-num-batched-tokens", "Tokens of one step.")] = (
        _ENGINE.max_num_batched_tokens
    )
    memory_budget: Annotated[
        str | None,
        option(
            "--memory-budget",
            "Device memory: 4GiB, 60% of what is free, or all-2GiB; what is needed, up to half, if not given.",
        ),
    ] = None

    def config(self) -> dict[str, Any]:
        """As keyword arguments of EngineConfig. Raises ConfigError for values no engine can have."""
        options = asdict(self)
        EngineConfig(**options)
        return options


@dataclass(frozen=True, kw_only=True)
class EngineOptions(LimitOptions, PlaceOptions):
    """The model, the device, and how the first runs on the second."""

    disable_impl: Annotated[
        list[str], option("--disable-impl", "An implementation to leave out of the plan. Repeatable.")
    ] = field(default_factory=list)
    prefer: Annotated[
        list[str], option("--prefer", "OP=IMPL: the implementation of an op to take first. Repeatable.")
    ] = field(default_factory=list)
    require: Annotated[str, option("--require", "Ops that an override must serve, separated by commas.")] = ""
    plan_lock: Annotated[
        str | None, option("--plan-lock", "The plan that this one must be, as `rtp devices explain --json` printed it.")
    ] = None
    allow_device_fallback: Annotated[
        bool, option("--allow-device-fallback", "With --device auto: go on past a broken plugin.")
    ] = False
    enforce_eager: Annotated[
        bool, option("--enforce-eager", "Run decode steps op by op, also where they could be recorded and replayed.")
    ] = False

    def config(self) -> dict[str, Any]:
        """Keyword arguments of LLM, but for the model. Raises ConfigError for values no engine can have."""
        options = asdict(self)
        del options["model"]
        options |= {"disable_impl": tuple(self.disable_impl), "prefer": tuple(self.prefer)}
        options["require"] = comma_separated(self.require)
        EngineConfig(**options)  # before a long download, not after it
        if self.plan_lock is not None:
            from rtp_core.device.plan_lock import read_plan

            read_plan(self.plan_lock)
        return options


@dataclass(frozen=True, kw_only=True)
class EncoderOptions(EngineOptions):
    """The same for a model that gives embeddings."""

    model: Annotated[str, option("--model", "A folder, a name of `rtp models ls`, or repo/id.")] = (
        hub.DEFAULT_EMBEDDING_MODEL
    )


def comma_separated(text: str) -> tuple[str, ...]:
    """`a,b` as ("a", "b"); spaces and empty names do not count."""
    return tuple(name for name in (part.strip() for part in text.split(",")) if name)


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Every parameter that is a dataclass becomes its fields, as parameters that typer understands."""
    hints = get_type_hints(command, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if is_dataclass(hint) and isinstance(hint, type)}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name in groups:
            annotations = get_type_hints(groups[name], include_extras=True)
            parameters += [_parameter(f.name, annotations[f.name], _default(f)) for f in fields(groups[name])]
        else:
            parameters.append(_parameter(name, hints[name], parameter.default))

    @wraps(command)
    def run(**values: Any) -> None:
        grouped = {name: group(**{f.name: values.pop(f.name) for f in fields(group)}) for name, group in groups.items()}
        command(**values, **grouped)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _default(field: Field[Any]) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return inspect.Parameter.empty if field.default is MISSING else field.default
