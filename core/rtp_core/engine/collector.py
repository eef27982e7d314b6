"""Gathers what the steps yield into one prompt's output."""

from __future__ import annotations

from rtp_core.engine.engine import Progress
from rtp_core.request import CompletionOutput, Request, RequestOutput, TokenLogprobs


class Collector:
    """One prompt and its requests, one a completion."""

    def __init__(self, prompt: str | None, requests: list[Request]) -> None:
        self.requests = requests
        self._prompt = prompt
        self._texts: dict[str, list[str]] = {request.request_id: [] for request in requests}
        self._logprobs: dict[str, list[TokenLogprobs]] = {request.request_id: [] for request in requests}
        self._prompt_logprobs: dict[int, TokenLogprobs] = {}

    def add(self, progress: Progress) -> None:
        """Book one step of one of the requests."""
        self._texts[progress.request_id].append(progress.text)
        if progress.logprobs is not None:
            self._logprobs[progress.request_id].append(progress.logprobs)
        if progress.prompt_logprobs:
            self._prompt_logprobs.update(progress.prompt_logprobs)

    def output(self) -> RequestOutput:
        """Once all requests are finished."""
        first = self.requests[0]
        prompt_logprobs: list[TokenLogprobs | None] | None = None
        if first.sampling.prompt_logprobs is not None:
            prompt_logprobs = [None, *(self._prompt_logprobs[p] for p in range(1, first.num_prompt_tokens))]
        completions = [self._completion(i, request) for i, request in enumerate(self.requests)]
        return RequestOutput(first.request_id, self._prompt, list(first.prompt_token_ids), completions, prompt_logprobs)

    def _completion(self, index: int, request: Request) -> CompletionOutput:
        return CompletionOutput(
            index,
            "".join(self._texts[request.request_id]),
            list(request.output_token_ids),
            request.finish_reason,
            None if request.sampling.logprobs is None else self._logprobs[request.request_id],
        )
