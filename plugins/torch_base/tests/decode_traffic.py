"""What a replayed decode step has to do with the host: the same question to a lazy accelerator and to a GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple

from rtp_core import LLM, SamplingParams

PROMPT = [7, 2]  # whose context stays within its first block
FEW, MANY = 2, 4  # tokens: an interpreter of kernels takes its time for each
NEEDED = (1.0, 1.0, 1.0)  # a step's integers come, its token ids go, and the host waits for them


def per_step(llm: LLM, generate: Callable[[LLM, int], tuple[int, ...]]) -> tuple[float, ...]:
    """What `generate(llm, num_tokens)` counts, for each decode step that is replayed."""
    generate(llm, FEW)  # records the step
    few, many = generate(llm, FEW), generate(llm, MANY)
    return tuple((m - f) / (MANY - FEW) for m, f in zip(many, few, strict=True))


def traffic(llm: LLM, num_tokens: int) -> tuple[int, ...]:
    """From the host, to the host, and waits, while so many tokens are generated."""
    before = astuple(llm.device._traffic)
    llm.generate([PROMPT], SamplingParams(temperature=0, max_tokens=num_tokens, ignore_eos=True))
    return tuple(b - a for a, b in zip(before, astuple(llm.device._traffic), strict=True))
