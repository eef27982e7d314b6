"""`rtp eval`: how good a model is, in figures that do not depend on who reads them."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from rtp_core.cli.console import note, write, write_json
from rtp_core.cli.group import command_group
from rtp_core.cli.lines import as_lines
from rtp_core.cli.load import load
from rtp_core.cli.options import Debug, EngineOptions, Json, option, with_options
from rtp_core.errors import RequestError

if TYPE_CHECKING:
    from rtp_core.engine.evaluation import Evaluation
    from rtp_core.engine.llm import LLM

app = command_group("Measure quality.")

_USAGE = "rtp eval perplexity --text FILE"


@dataclass(frozen=True, slots=True, kw_only=True)
class PerplexityOptions:
    """The text, and what the model is held against."""

    text: Annotated[str, option("--text", "A UTF-8 file, or - for standard input.")]
    context: Annotated[
        int | None,
        option("--context", "Tokens of a window; windows do not overlap. 2048, or what the model takes, if not given."),
    ] = None
    reference: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        option("--reference", "Compare with the same model in this dtype, loaded beside it."),
    ] = None


@app.command("perplexity")
@with_options
def perplexity(
    *, options: PerplexityOptions, engine: EngineOptions, as_json: Json = False, debug: Debug = False
) -> None:
    """Perplexity of a text; with --reference also KL(reference || model) in nats and top-1 agreement.

    Every token is scored but the first of each window.
    """
    text = read_text(options.text)
    with ExitStack() as opened:
        llm = opened.enter_context(load(engine)[0])
        reference = None
        if options.reference is not None:
            # The plan that is locked or required is the model's own, not that of what it is held against.
            exact = replace(engine, dtype=options.reference, quantization=None, plan_lock=None, require="")
            reference = opened.enter_context(load(exact)[0])
        found, context = _evaluate(llm, reference, text, options.context)
        document = {**asdict(found), "context": context, "reference": options.reference, **_setting(llm, engine)}
    if as_json:
        write_json(document)
    else:
        facts = {key.replace("_", " "): _rounded(value) for key, value in document.items() if value is not None}
        write("\n".join(as_lines(facts)) + "\n")


def read_text(source: str) -> str:
    """A file's text, or standard input's for `-`. Raises RequestError where it cannot be read or is empty."""
    where = "standard input" if source == "-" else source
    try:
        raw = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
        text = raw.decode()
    except OSError as error:
        raise RequestError(
            "cannot read the text", where=where, why=error.strerror or str(error), hint=_USAGE
        ) from error
    except UnicodeDecodeError as error:
        raise RequestError("cannot read the text", where=where, why=f"not UTF-8: {error}", hint=_USAGE) from error
    if not text:
        raise RequestError("the text is empty", where=where, why="expected some text", hint=_USAGE)
    return text


def _evaluate(llm: LLM, reference: LLM | None, text: str, asked: int | None) -> tuple[Evaluation, int]:
    from rtp_core.engine.evaluation import checked_context, evaluations, windows

    context = checked_context(llm, asked)
    pieces = windows(llm.tokenizer.encode(text), context)
    for done, found in enumerate(evaluations(llm, pieces, reference), start=1):
        note(f"window {done} of {len(pieces)}: {found.tokens} tokens, perplexity {found.perplexity:.4f}")
    return found, context


def _setting(llm: LLM, engine: EngineOptions) -> dict[str, Any]:
    return {"model": engine.model, "device": llm.device.info.id, "dtype": engine.dtype, "plan_hash": llm.plan.hash}


def _rounded(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value
