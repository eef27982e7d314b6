"""What the scheduler hands to the runner: the tokens of one step."""

from __future__ import annotations

from typing import NamedTuple

from rtp_core.request import Request


class ScheduledRequest(NamedTuple):
    """Tokens [start, start + num_tokens) of one request, and the blocks that cover them.

    The properties compare with the request as it was scheduled: read them before `Scheduler.update`.
    """

    request: Request
    start: int  # all tokens before it are computed
    num_tokens: int
    block_table: tuple[int, ...]

    @property
    def yields_token(self) -> bool:
        """Whether the last known token is among these, so that a next one can be chosen."""
        return self.start + self.num_tokens == self.request.num_tokens

    @property
    def is_decode(self) -> bool:
        """One query token with everything before it computed. A prompt of one token is a prefill."""
        return self.num_tokens == 1 and self.start >= 1 and self.yields_token


class ScheduledBatch(NamedTuple):
    """One step: `num_decode` decode requests first, then prefills; both in the order in which they are served."""

    requests: tuple[ScheduledRequest, ...]
    preempted_ids: tuple[str, ...]
    num_tokens: int
    num_decode: int
