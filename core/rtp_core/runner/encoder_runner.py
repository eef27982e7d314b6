"""From whole requests to their hidden states: runs an encoder through the plan."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from rtp_core.device.attention_batch import EncoderBatch
from rtp_core.device.failure import Failures
from rtp_core.device.plan import Plan
from rtp_core.device.weights import EncoderWeights


class EncoderRunner:
    """Holds references only: the plan's table and the weights."""

    def __init__(self, plan: Plan, weights: EncoderWeights) -> None:
        self._weights, self._ops = weights, plan.ops("prefill")
        self._failures = Failures(self._ops, plan.serving)
        self._positions = np.arange(weights.positions.shape[0], dtype=np.int32)

    def execute(self, requests: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Run one step: hidden states [T, E] of the requests' tokens, one request after the other. Changes nothing.

        Raises DeviceError, naming the override, where one failed; it is not tried with another. DeviceFailedError, then
        and ever after, where the device is lost.
        """
        with self._failures:
            return self._execute(requests)

    def _execute(self, requests: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        ops, lengths = self._ops, tuple(map(len, requests))
        ops.arena.begin_step("embed", {}, _EXECUTE)
        num_tokens = sum(lengths)
        integers = np.empty(2 * num_tokens, np.int32)
        integers[:num_tokens] = list(chain.from_iterable(requests))
        np.concatenate([self._positions[:length] for length in lengths], out=integers[num_tokens:])
        on_device = ops.upload(integers, "step_inputs")
        batch = EncoderBatch(on_device[:num_tokens], on_device[num_tokens:], lengths)
        hidden = ops.download(ops.model_forward(self._weights, (), batch))
        return hidden.astype(np.float32, copy=False)


_EXECUTE = EncoderRunner.execute.__code__
