"""The engine: the loop that takes requests to tokens, and the only place where scheduler and runner meet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rtp_core.engine.text_output import TextOutput
from rtp_core.errors import RequestError
from rtp_core.request import FinishReason, Request, TokenLogprobs
from rtp_core.runner.model_runner import ModelRunner
from rtp_core.runner.step_result import StepResult
from rtp_core.scheduled_batch import ScheduledBatch
from rtp_core.scheduler.scheduler import Scheduler
from rtp_core.text.tokenizer import Tokenizer


class Progress(NamedTuple):
    """What one step did for one request. `text` is the piece that became certain, often empty.

    prompt_logprobs: by position, those computed in this step. finish_reason: set with the last piece.
    """

    request_id: str
    text: str
    token_id: int | None
    logprobs: TokenLogprobs | None
    prompt_logprobs: dict[int, TokenLogprobs]
    finish_reason: FinishReason | None


class Engine:
    """Not thread-safe: one caller adds, steps and aborts."""

    def __init__(self, scheduler: Scheduler, runner: ModelRunner, tokenizer: Tokenizer) -> None:
        self._scheduler, self._runner, self._tokenizer = scheduler, runner, tokenizer
        self._texts: dict[str, TextOutput] = {}

    @property
    def why_eager(self) -> str:
        """Why decode steps that were to be replayed run op by op, or ""."""
        return self._runner.why_eager

    @property
    def has_unfinished(self) -> bool:
        return self._scheduler.has_unfinished

    def add(self, request: Request) -> None:
        """Queue a request. Raises RequestError where it can never be served."""
        if not request.features <= self._runner.features:
            raise RequestError(
                f"request {request.request_id!r} needs {', '.join(sorted(request.features - self._runner.features))}",
                why=f"this engine serves {', '.join(sorted(self._runner.features)) or 'no features'} of requests",
            )
        self._scheduler.add(request)
        self._texts[request.request_id] = TextOutput(self._tokenizer, request.sampling.stop)

    def abort(self, request_id: str) -> bool:
        """Drop a request and free its blocks. False where it is already done."""
        self._texts.pop(request_id, None)
        return self._scheduler.abort(request_id)

    def step(self) -> list[Progress]:
        """Run one step of every request that is due. When it raises, no request has changed."""
        batch = self._scheduler.schedule()
        result = self._runner.execute(batch)
        return self._update(batch, result)

    def score(self, request: Request) -> Iterator[NDArray[np.float32]]:
        """What the model expects after each token of a prompt: natural log probabilities [rows, V], in order and some
        rows at a time. The request ends with its prompt, or when the iterator is closed.

        Raises RequestError where other requests are unfinished, or where this one can never be served.
        """
        if self._scheduler.has_unfinished:
            raise RequestError(
                f"cannot score request {request.request_id!r}",
                why="other requests are unfinished, and it would stop them half-way through a step",
                hint="score when they are done",
            )
        self._scheduler.add(request)
        try:
            while True:
                batch = self._scheduler.schedule()
                yield from self._runner.distributions(batch)
                if batch.requests[0].yields_token:
                    return
                self._scheduler.update(batch, [None])
        finally:
            self._scheduler.abort(request.request_id)

    def check_integrity(self) -> None:
        """Assert that requests, queues and blocks agree."""
        self._scheduler.check_integrity()

    def _update(self, batch: ScheduledBatch, result: StepResult) -> list[Progress]:
        self._scheduler.update(batch, result.token_ids)
        progress = []
        for scheduled, token_id, logprobs, prompt_logprobs in zip(batch.requests, *result, strict=True):
            request = scheduled.request
            text = "" if token_id is None else self._advance_text(request, token_id)
            piece = Progress(request.request_id, text, token_id, logprobs, prompt_logprobs, request.finish_reason)
            progress.append(piece)
        return progress

    def _advance_text(self, request: Request, token_id: int) -> str:
        output = self._texts[request.request_id]
        piece = output.feed(token_id)
        if request.finish_reason is not None:
            piece += output.finish()
        elif not output.is_stopped:
            return piece
        else:
            self._scheduler.finish(request.request_id, "stop")
        if output.is_stopped:
            request.finish_reason = "stop"  # it may have reached its length with the same token
        del self._texts[request.request_id]
        return piece
