"""end_to_end: small models give what they give on the reference, in float32: llama and qwen2 token for token,
bert in its hidden states."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import cycle, product

import numpy as np
from numpy.typing import NDArray

from rtp_core.conformance.case import Case
from rtp_core.conformance.expectation import CheckFailed, expect
from rtp_core.conformance.subject import Subject
from rtp_core.conformance.tiny_encoder import encode
from rtp_core.conformance.tiny_model import VOCAB, Generated, generate, tiny_config
from rtp_core.device.device import Device
from rtp_core.memory.qbuffer import SCHEMES

GROUP = "end_to_end"
MODELS = ("llama", "qwen2")
LENGTHS = (1, 7, 33, 18)  # tokens of the prompts: below, at and above a block's
NUM_TOKENS = 8
CLOSE = 1e-3  # between logits: a tie may go either way; between hidden states, which are normed: equal
# Mean difference of log probability, or of normed states, where numbers are narrow or quantized, by what a scheme makes
# of activations. Those in float8 move these models by 0.26 in exact products, those in int8 by 0.07.
FAST_PATH = {None: 0.15, "int8": 0.15, "float8_e4m3fn": 0.5}

# Tokens of one step: everything at once, prompts in chunks beside decodes, or one request after the other.
BATCHES = {"prefill at once": 512, "chunked prefill": 6, "one token at a time": len(LENGTHS)}


def cases(subject: Subject) -> Iterator[Case]:
    if subject.opening_error:
        return
    yield from _encoder_cases(subject)
    for model, name in product(MODELS, BATCHES):
        yield Case(GROUP, f"{model}, {name}: greedy tokens in float32", partial(_same_tokens, model, name))
    for model, (name, dtype, scheme) in zip(cycle(MODELS), _fast_paths(subject)):  # each of them on one of the models
        yield Case(GROUP, f"{model}, {name}: log probabilities", partial(_close, model, dtype, scheme))


def _encoder_cases(subject: Subject) -> Iterator[Case]:
    for name in ("together", "one by one"):
        yield Case(GROUP, f"bert, {name}: hidden states in float32", partial(_same_states, name == "together"))
    for name, dtype, scheme in _fast_paths(subject):
        yield Case(GROUP, f"bert, {name}: hidden states", partial(_close_states, dtype, scheme))


def _fast_paths(subject: Subject) -> Iterator[tuple[str, str, str | None]]:
    """(name, dtype, scheme) of every scheme, and of every dtype that is narrow."""
    for scheme in subject.manifest.schemes:
        yield scheme, "auto", scheme
    for dtype in subject.manifest.dtypes:
        if dtype != "float32":
            yield dtype, dtype, None


def _prompts() -> list[list[int]]:
    rng = np.random.default_rng(23)
    return [rng.integers(0, VOCAB, length).tolist() for length in LENGTHS]


def _expected_states(subject: Subject, scheme: str | None) -> NDArray[np.float32]:
    key = GROUP, "bert", scheme
    if key not in subject.oracles:
        dtype = "auto" if scheme else "float32"
        subject.oracles[key] = encode(subject.reference, [_prompts()], dtype=dtype, quantization=scheme)
    known: NDArray[np.float32] = subject.oracles[key]
    return known


def _same_states(is_together: bool, subject: Subject) -> None:
    steps = [_prompts()] if is_together else [[prompt] for prompt in _prompts()]
    error = float(np.abs(encode(subject.device, steps) - _expected_states(subject, None)).max())
    expect(error <= CLOSE, f"expected hidden states within {CLOSE} of the reference's, got {error:.3g}")


def _close_states(dtype: str, scheme: str | None, subject: Subject) -> None:
    got = encode(subject.device, [_prompts()], dtype=dtype, quantization=scheme)
    error, limit = float(np.abs(got - _expected_states(subject, scheme)).mean()), _fast_path(scheme)
    expect(error <= limit, f"expected hidden states within {limit} in the mean, got {error:.3f}")


def _fast_path(scheme: str | None) -> float:
    return FAST_PATH[None if scheme is None else SCHEMES[scheme].activation]


def _generate(
    device: Device, model: str, *, batched_tokens: int = 512, dtype: str = "float32", scheme: str | None = None
) -> list[Generated]:
    return generate(
        device,
        tiny_config(model, 1 if scheme is None else SCHEMES[scheme].unit),
        _prompts(),
        dtype=dtype,
        quantization=scheme,
        num_tokens=NUM_TOKENS,
        max_num_batched_tokens=batched_tokens,
    )


def _expected(subject: Subject, model: str, dtype: str, scheme: str | None) -> list[Generated]:
    """What the reference says, worked out once."""
    key = GROUP, model, dtype, scheme
    if key not in subject.oracles:
        subject.oracles[key] = _generate(subject.reference, model, dtype=dtype, scheme=scheme)
    known: list[Generated] = subject.oracles[key]
    return known


def _same_tokens(model: str, batch: str, subject: Subject) -> None:
    expected = _expected(subject, model, "float32", None)
    got = _generate(subject.device, model, batched_tokens=BATCHES[batch])
    for prompt, (x, y) in enumerate(zip(got, expected, strict=True)):
        for at, (token, wanted) in enumerate(zip(x.token_ids, y.token_ids, strict=True)):
            best, second = sorted(y.best[at].values(), reverse=True)[:2]
            if best - second < CLOSE:
                break  # from here on the two may go different ways
            expect(token == wanted, f"expected {y.token_ids} after prompt {prompt}, got {x.token_ids}")


def _close(model: str, dtype: str, scheme: str | None, subject: Subject) -> None:
    """Of the prompts' own tokens, so that one token chosen otherwise does not change what follows."""
    expected = _expected(subject, model, "auto" if scheme else "float32", scheme)
    got = _generate(subject.device, model, dtype=dtype, scheme=scheme)
    differences = []
    for x, y in zip(got, expected, strict=True):
        if set(x.prompt_logprobs) != set(y.prompt_logprobs):
            raise CheckFailed(f"expected log probabilities at {sorted(y.prompt_logprobs)}, got others")
        differences += [abs(x.prompt_logprobs[at] - y.prompt_logprobs[at]) for at in y.prompt_logprobs]
    mean, limit = float(np.mean(differences)), _fast_path(scheme)
    expect(mean <= limit, f"expected log probabilities within {limit} nats in the mean, got {mean:.3f}")
