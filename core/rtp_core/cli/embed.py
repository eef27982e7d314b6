"""`rtp embed`: texts to embeddings."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rtp_core.cli.console import note, plain, write, write_json
from rtp_core.cli.lines import as_columns
from rtp_core.cli.load import load
from rtp_core.cli.options import Debug, EncoderOptions, Json, with_options
from rtp_core.cli.prompt import read_texts

if TYPE_CHECKING:
    from rtp_core.request import EmbeddingOutput

_WIDTH = 40  # characters of a text that are shown
_NUMBERS = 3  # of an embedding
_MATRIX = 12  # texts that are still compared with each other


@with_options
def embed(
    *,
    texts: Annotated[
        list[str] | None,
        typer.Argument(metavar="TEXT...", help="Texts, or - for standard input, one a line.", show_default=False),
    ] = None,
    engine: EncoderOptions,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Turn texts into embeddings. Without --json: how each begins, and how alike the texts are."""
    given = read_texts(texts)
    llm, load_s = load(engine)
    with llm:
        start = time.perf_counter()
        outputs = llm.embed(given)
        embed_s = time.perf_counter() - start
        if as_json:
            write_json(
                {
                    "embeddings": [output.embedding for output in outputs],
                    "num_tokens": [len(output.prompt_token_ids) for output in outputs],
                    "model": engine.model,
                    "device": llm.device.info.id,
                    "plan_hash": llm.plan.hash,
                    "timings": {"load_s": load_s, "embed_s": embed_s},
                }
            )
            return
        write(as_columns(_rows(given, outputs)))
        num_tokens = sum(len(output.prompt_token_ids) for output in outputs)
        note(f"{llm.device.info.id}: load {load_s:.2f} s | {len(outputs)} texts, {num_tokens} tokens, {embed_s:.3f} s")


def _rows(texts: list[str], outputs: list[EmbeddingOutput]) -> list[list[str]]:
    """One a text: its first characters and numbers, and where there are several but few, its cosines with all."""
    width = len(outputs[0].embedding)
    numbers = [range(1, len(texts) + 1)] if 1 < len(texts) <= _MATRIX else []
    rows = [["#", "TEXT", "TOKENS", f"EMBEDDING ({width})", *(f"~{i}" for group in numbers for i in group)]]
    cosines: Any = _cosines(outputs) if numbers else [[]] * len(texts)
    for i, (text, output, alike) in enumerate(zip(texts, outputs, cosines, strict=True), 1):
        shown = plain(text)
        shown = shown if len(shown) <= _WIDTH else shown[: _WIDTH - 3] + "..."
        begin = " ".join(f"{x:.4f}" for x in output.embedding[:_NUMBERS]) + (" ..." if width > _NUMBERS else "")
        rows.append([str(i), shown, str(len(output.prompt_token_ids)), begin, *(f"{x:.2f}" for x in alike)])
    return rows


def _cosines(outputs: list[EmbeddingOutput]) -> Any:
    import numpy as np

    rows = np.array([output.embedding for output in outputs])
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return rows @ rows.T
