"""What a step on the device yields, request by request."""

from __future__ import annotations

from typing import NamedTuple

from rtp_core.request import TokenLogprobs


class StepResult(NamedTuple):
    """All aligned with the batch's requests.

    token_ids: the next token, or None where the prompt is not through. logprobs: of that token, where asked for.
    prompt_logprobs: by position in the prompt, those that this step computed.
    """

    token_ids: list[int | None]
    logprobs: list[TokenLogprobs | None]
    prompt_logprobs: list[dict[int, TokenLogprobs]]
