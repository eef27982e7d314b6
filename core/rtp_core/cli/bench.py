"""`rtp bench`: how fast a model is on a device of this machine."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from rtp_core.cli.console import note, write, write_json
from rtp_core.cli.group import command_group
from rtp_core.cli.lines import as_columns
from rtp_core.cli.load import load
from rtp_core.cli.options import Debug, EncoderOptions, EngineOptions, Json, option, with_options
from rtp_core.errors import ConfigError

if TYPE_CHECKING:
    from rtp_core.engine.llm import LLM

app = command_group("Measure speed.")

_LATENCY_COLUMNS = {
    "batch": "BATCH",
    "prompt_tokens": "PROMPT",
    "output_tokens": "OUTPUT",
    "prefill_tokens_per_s": "PREFILL tokens/s",
    "decode_tokens_per_s": "DECODE tokens/s",
    "ttft_ms": "TTFT ms",
    "itl_ms_p50": "ITL ms p50",
    "itl_ms_p99": "p99",
}


_EMBED_COLUMNS = {
    "batch": "BATCH",
    "tokens": "TOKENS",
    "latency_ms_p50": "LATENCY ms p50",
    "sequences_per_s": "SEQUENCES/s",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyOptions:
    """What is measured."""

    prompt_tokens: Annotated[int, option("--prompt-tokens", "Tokens of each prompt.")] = 512
    output_tokens: Annotated[int, option("--output-tokens", "Tokens to generate for each prompt.")] = 128
    batch: Annotated[list[int], option("--batch", "Requests at once. Repeatable.")] = field(default_factory=lambda: [1])
    rounds: Annotated[int, option("--rounds", "Measured rounds after one to warm up; at least 3.")] = 3
    seed: Annotated[int, option("--seed", "Chooses the random prompts.", min=0)] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedOptions:
    """What is measured."""

    tokens: Annotated[int, option("--tokens", "Tokens of each prompt.")] = 128
    batch: Annotated[list[int], option("--batch", "Prompts at once. Repeatable.")] = field(default_factory=lambda: [1])
    rounds: Annotated[int, option("--rounds", "Measured rounds after one to warm up; at least 3.")] = 10
    seed: Annotated[int, option("--seed", "Chooses the random prompts.", min=0)] = 0


@app.command("latency")
@with_options
def latency(*, engine: EngineOptions, options: LatencyOptions, as_json: Json = False, debug: Debug = False) -> None:
    """Time to first token, time between tokens, and speeds over the whole batch: medians over rounds."""
    largest = max(options.batch)
    if largest > engine.max_num_seqs:
        raise ConfigError(
            f"--batch {largest}",
            why=f"only {engine.max_num_seqs} requests run at once",
            hint=f"--max-num-seqs {largest}",
        )
    llm, _ = load(engine)
    with llm:
        rows = _measure(llm, options)
        _report(llm, rows, _LATENCY_COLUMNS, engine, options.rounds, as_json)


@app.command("embed")
@with_options
def embed(*, engine: EncoderOptions, options: EmbedOptions, as_json: Json = False, debug: Debug = False) -> None:
    """Time from token ids to the embeddings of a batch: the median over rounds."""
    llm, _ = load(engine)
    from rtp_core.engine.embed_latency import measure_embed

    with llm:
        rows = []
        for batch in options.batch:
            note(f"batch {batch}: {options.tokens} tokens, {options.rounds} rounds")
            rows.append(asdict(measure_embed(llm, batch, options.tokens, rounds=options.rounds, seed=options.seed)))
        _report(llm, rows, _EMBED_COLUMNS, engine, options.rounds, as_json)


def _measure(llm: LLM, options: LatencyOptions) -> list[dict[str, Any]]:
    from rtp_core.engine.latency import Load, measure

    rows = []
    for batch in options.batch:
        note(f"batch {batch}: {options.prompt_tokens} + {options.output_tokens} tokens, {options.rounds} rounds")
        wanted = Load(batch, options.prompt_tokens, options.output_tokens)
        rows.append(asdict(measure(llm, wanted, rounds=options.rounds, seed=options.seed)))
    return rows


def _report(
    llm: LLM, rows: list[dict[str, Any]], columns: dict[str, str], engine: EngineOptions, rounds: int, as_json: bool
) -> None:
    if as_json:
        write_json({"rows": rows, "rounds": rounds, "model": engine.model, **_setting(llm)})
    else:
        _write_rows(rows, columns)


def _setting(llm: LLM) -> dict[str, Any]:
    from rtp_core.cli.machine import LIBRARIES, machine, versions

    device = llm.device.info
    return {
        "device": device.id,
        "plan_hash": llm.plan.hash,
        "machine": {**machine(), "device": device.name, "versions": versions("rtp-core", *LIBRARIES)},
    }


def _write_rows(rows: list[dict[str, Any]], columns: dict[str, str]) -> None:
    cells = [list(columns.values())]
    cells += [[f"{row[key]:.2f}" if isinstance(row[key], float) else str(row[key]) for key in columns] for row in rows]
    write(as_columns(cells, right=True))
