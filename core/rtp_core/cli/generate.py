"""`rtp generate`: one prompt, one completion, streamed as it comes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rtp_core.cli.console import note, write, write_json
from rtp_core.cli.load import load
from rtp_core.cli.options import Debug, EngineOptions, Json, with_options
from rtp_core.cli.prompt import PromptOptions, read_prompt
from rtp_core.cli.recording import RecordingOptions
from rtp_core.cli.sampling import SamplingOptions
from rtp_core.errors import ConfigError

if TYPE_CHECKING:
    from rtp_core.engine.llm import LLM
    from rtp_core.request import SamplingParams


@dataclass(slots=True)
class Completion:
    """What came of a prompt; prefill ends with the first token. Times in seconds."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    prefill_s: float = 0.0
    decode_s: float = 0.0


@with_options
def generate(
    *,
    prompt: Annotated[str | None, typer.Argument(help="Text, or - for standard input.", show_default=False)] = None,
    options: PromptOptions,
    engine: EngineOptions,
    sampling: SamplingOptions,
    recording: RecordingOptions,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Generate text. It streams to standard output; timings go to standard error."""
    options.check()
    text = read_prompt(prompt, raw=options.raw)
    sampling.check()
    recording.check()
    llm, load_s = load(engine, trace_memory=recording.level)
    with llm, recording.recording(llm):
        params = sampling.params(llm.generation_config, engine.model)
        token_ids = _token_ids(llm, text, options)
        if as_json:
            completion = complete(llm, token_ids, params)
            write_json(_document(llm, engine.model, token_ids, params, completion, load_s))
        else:
            completion = _stream(llm, token_ids, params)
            note(_timings_line(llm, len(token_ids), completion, load_s))


def complete(
    llm: LLM, token_ids: list[int], params: SamplingParams, show: Callable[[str], None] = lambda piece: None
) -> Completion:
    """One completion; `show` gets its text in pieces."""
    done = Completion()
    start = time.perf_counter()
    for progress in llm.stream(token_ids, params):
        if progress.token_id is not None:
            done.token_ids.append(progress.token_id)
            if len(done.token_ids) == 1:
                done.prefill_s = time.perf_counter() - start
        done.text += progress.text
        done.finish_reason = progress.finish_reason
        show(progress.text)
    done.decode_s = time.perf_counter() - start - done.prefill_s
    return done


def _stream(llm: LLM, token_ids: list[int], params: SamplingParams) -> Completion:
    """One completion on standard output. Interrupted too, what has been written stays as a line of its own."""
    is_begun = False

    def show(piece: str) -> None:
        nonlocal is_begun
        if piece:
            is_begun = True
            write(piece)

    try:
        done = complete(llm, token_ids, params, show)
    except BaseException:
        if is_begun:
            write("\n")
        raise
    write("\n")
    return done


def _token_ids(llm: LLM, text: str, options: PromptOptions) -> list[int]:
    system = options.system
    if options.raw or llm.chat_template is None:
        if system is not None:
            raise ConfigError("--system", why="the model has no chat template", hint="put it into the prompt")
        return llm.tokenizer.encode(text)
    messages = [{"role": "user", "content": text}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return llm.chat_prompt(messages)


def timings(num_prompt_tokens: int, completion: Completion, load_s: float) -> dict[str, float]:
    """Seconds, and tokens per second: of the prompt up to the first token, and of those after it (0 if none)."""
    num_decoded = len(completion.token_ids) - 1
    is_decoded = num_decoded > 0 and completion.decode_s > 0
    return {
        "load_s": load_s,
        "prefill_s": completion.prefill_s,
        "decode_s": completion.decode_s,
        "prefill_tokens_per_s": num_prompt_tokens / completion.prefill_s if completion.prefill_s > 0 else 0.0,
        "decode_tokens_per_s": num_decoded / completion.decode_s if is_decoded else 0.0,
    }


def _document(
    llm: LLM, model: str, token_ids: list[int], params: SamplingParams, completion: Completion, load_s: float
) -> dict[str, Any]:
    return {
        "text": completion.text,
        "token_ids": completion.token_ids,
        "prompt_token_ids": token_ids,
        "finish_reason": completion.finish_reason,
        "device": llm.device.info.id,
        "model": model,
        "seed": params.seed,
        "plan_hash": llm.plan.hash,
        "timings": timings(len(token_ids), completion, load_s),
    }


def _timings_line(llm: LLM, num_prompt_tokens: int, completion: Completion, load_s: float) -> str:
    numbers = timings(num_prompt_tokens, completion, load_s)
    return (
        f"{llm.device.info.id}: load {load_s:.2f} s"
        f" | prefill {num_prompt_tokens} tokens, {numbers['prefill_tokens_per_s']:.1f} tokens/s"
        f" | decode {len(completion.token_ids)} tokens, {numbers['decode_tokens_per_s']:.1f} tokens/s"
        f" | {completion.finish_reason}"
    )
