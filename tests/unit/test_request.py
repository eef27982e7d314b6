"""Sampling parameters reject what cannot work; a request reads its own tokens."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

import numpy as np
import pytest

from rtp_core.errors import ConfigError
from rtp_core.request import MAX_LOGPROBS, CompletionOutput, Request, RequestOutput, SamplingParams


def test_defaults_are_the_documented_ones():
    params = SamplingParams()
    assert (params.n, params.temperature, params.top_k, params.top_p, params.min_p) == (1, 1.0, 0, 1.0, 0.0)
    assert (params.max_tokens, params.seed, params.stop, params.stop_token_ids) == (16, None, (), ())
    assert (params.logprobs, params.prompt_logprobs, params.ignore_eos) == (None, None, False)


def test_parameters_are_frozen_and_hashable():
    params = SamplingParams(stop=["a"], stop_token_ids=[1])
    with pytest.raises(dataclasses.FrozenInstanceError):
        params.temperature = 0.5
    assert hash(params) == hash(SamplingParams(stop="a", stop_token_ids=(1,)))


def test_values_are_normalised():
    params = SamplingParams(
        top_k=-1, stop="end", stop_token_ids=[3, np.int64(4)], temperature=np.float64(0.5), seed=np.int32(7)
    )
    assert params.top_k == 0
    assert params.stop == ("end",)
    assert params.stop_token_ids == (3, 4)
    assert type(params.seed) is int and type(params.temperature) is float
    assert type(SamplingParams(temperature=1).temperature) is float


def test_only_temperature_zero_is_greedy():
    assert SamplingParams(temperature=0).is_greedy
    assert not SamplingParams(temperature=1e-9).is_greedy


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 0),
        ("n", True),
        ("n", 1.0),
        ("n", 10**9),
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", "1"),
        ("temperature", False),
        ("temperature", 10**400),
        ("top_k", -2),
        ("top_k", 2.5),
        ("top_k", 2**31),
        ("top_p", 0.0),
        ("top_p", 1.0001),
        ("top_p", math.nan),
        ("min_p", -0.01),
        ("min_p", 1.5),
        ("min_p", None),
        ("seed", -1),
        ("seed", 2**64),
        ("seed", "x"),
        ("stop", ""),
        ("stop", ["a", ""]),
        ("stop", [1]),
        ("stop", 5),
        ("stop_token_ids", [-1]),
        ("stop_token_ids", [True]),
        ("stop_token_ids", "12"),
        ("stop_token_ids", 7),
        ("max_tokens", 0),
        ("max_tokens", -5),
        ("max_tokens", True),
        ("ignore_eos", 1),
        ("logprobs", -1),
        ("logprobs", MAX_LOGPROBS + 1),
        ("logprobs", True),
        ("prompt_logprobs", 20_001),
        ("prompt_logprobs", 0.0),
    ],
)
def test_a_bad_value_is_an_error_with_name_value_and_expectation(name, value):
    with pytest.raises(ConfigError) as caught:
        SamplingParams(**{name: value})
    assert caught.value.what.startswith(name)
    assert " is " in caught.value.what
    assert caught.value.why.startswith("expected ")


def test_the_error_of_a_huge_value_stays_short():
    with pytest.raises(ConfigError) as caught:
        SamplingParams(stop=["a" * 10_000, ""])
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 0},
        {"temperature": Fraction(1, 2)},
        {"top_k": 50, "top_p": np.float32(0.9), "min_p": 1},
        {"logprobs": 0, "prompt_logprobs": MAX_LOGPROBS},
        {"seed": 2**64 - 1, "max_tokens": None},
    ],
)
def test_values_at_the_borders_are_accepted(params):
    SamplingParams(**params)


def make_request(prompt=(1, 2, 3), output=()):
    return Request(
        request_id="r", prompt_token_ids=tuple(prompt), sampling=SamplingParams(), seed=0, output_token_ids=list(output)
    )


def test_a_request_counts_prompt_and_output():
    request = make_request(output=[4, 5])
    assert (request.num_prompt_tokens, request.num_tokens, request.is_finished) == (3, 5, False)
    request.finish_reason = "length"
    assert request.is_finished


def test_token_ids_equal_a_slice_of_prompt_and_output_together():
    request = make_request(output=[4, 5])
    everything = (1, 2, 3, 4, 5)
    for start in range(6):
        for stop in range(start, 6):
            assert request.token_ids(start, stop) == everything[start:stop]


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (2, 1), (0, 6)])
def test_token_ids_outside_the_request_are_an_error(start, stop):
    with pytest.raises(IndexError):
        make_request(output=[4, 5]).token_ids(start, stop)


def test_requests_are_compared_by_identity_and_share_no_output():
    first, second = make_request(), make_request()
    assert first != second
    assert len({first, second}) == 2
    first.output_token_ids.append(9)
    assert second.output_token_ids == []


def test_the_short_names_of_an_output_mean_its_first_completion():
    completions = [
        CompletionOutput(0, "one", [1], "stop", [{1: -0.5}]),
        CompletionOutput(1, "two", [2], "length"),
    ]
    output = RequestOutput("r", None, [7], completions)
    assert (output.text, output.token_ids, output.finish_reason) == ("one", [1], "stop")
    assert output.logprobs == [{1: -0.5}]
    assert output.prompt_logprobs is None
