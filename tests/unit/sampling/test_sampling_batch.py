"""A batch's parameters line up with its requests, and its randomness depends on seed and token index alone."""

from __future__ import annotations

import numpy as np
import pytest

from rtp_core.request import Request, SamplingParams
from rtp_core.sampling.sampling_batch import SamplingBatch
from rtp_core.sampling.uniforms import Uniforms, uniforms

WORD = 2**64 - 1


def uniform(seed, token_index):
    """From the paper's own description."""
    return (philox_4x64_10(token_index + 1, seed) >> 11) / 2**53


def batch_of(requests):
    return SamplingBatch.of(requests, Uniforms())


def philox_4x64_10(counter, key):
    """The first word of a block, from the paper's own description."""
    c = [(counter >> 64 * i) & WORD for i in range(4)]
    k = [key & WORD, key >> 64]
    for _ in range(10):
        left, right = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
        c = [(right >> 64) ^ c[1] ^ k[0], right & WORD, (left >> 64) ^ c[3] ^ k[1], left & WORD]
        k = [(k[0] + 0x9E3779B97F4A7C15) & WORD, (k[1] + 0xBB67AE8584CAA73B) & WORD]
    return c[0]


def test_the_oracle_gives_the_known_answer_of_the_paper():
    assert philox_4x64_10(0, 0) == 0x16554D9ECA36314C


@pytest.mark.parametrize("seed", [0, 1, 12345, 2**64 - 1])
@pytest.mark.parametrize("token_index", [0, 1, 2, 1000])
def test_a_uniform_is_the_documented_word_of_philox(seed, token_index):
    assert uniforms(seed, token_index) == [uniform(seed, token_index)]


def test_uniforms_of_tokens_in_a_row_are_those_of_each():
    assert uniforms(12345, 7, 40) == [uniform(12345, index) for index in range(7, 47)]


def test_uniforms_are_spread_evenly_over_tokens_and_over_seeds():
    for draws in (uniforms(3, 0, 4000), [uniforms(s, 0)[0] for s in range(4000)]):
        assert min(draws) >= 0.0 and max(draws) < 1.0
        counts, _ = np.histogram(draws, bins=16, range=(0, 1))
        chi_square = ((counts - 250.0) ** 2 / 250.0).sum()
        assert chi_square < 37.7  # 0.1 % of 15 degrees of freedom
        assert len(set(draws)) == 4000


def make_request(request_id, seed, num_output, **params):
    return Request(
        request_id=request_id,
        prompt_token_ids=(1,),
        sampling=SamplingParams(**params),
        seed=seed,
        output_token_ids=[0] * num_output,
    )


def test_rows_follow_the_requests():
    greedy = make_request("a", 5, 0, temperature=0)
    filtered = make_request("b", 6, 3, temperature=0.5, top_k=7, top_p=0.25, min_p=0.125, logprobs=4)
    own = make_request("c", 7, 1, logprobs=0)
    batch = batch_of([greedy, filtered, own])
    assert batch.temperature.tolist() == [0.0, 0.5, 1.0]
    assert batch.top_k.tolist() == [0, 7, 0]
    assert batch.top_p.tolist() == [1.0, 0.25, 1.0]
    assert batch.min_p.tolist() == [0.0, 0.125, 0.0]
    assert batch.uniforms.tolist() == [0.0, uniform(6, 3), uniform(7, 1)]
    assert batch.num_logprobs.tolist() == [-1, 4, 0]
    assert [a.dtype.name for a in (batch.temperature, batch.top_k, batch.top_p, batch.min_p, batch.uniforms)] == [
        "float32",
        "int64",
        "float32",
        "float32",
        "float64",
    ]


def test_a_request_draws_the_same_in_any_batch():
    requests = [make_request(str(i), i, i) for i in range(4)]
    together = batch_of(requests[::-1]).uniforms[::-1]
    alone = [batch_of([request]).uniforms[0] for request in requests]
    assert together.tolist() == alone


def test_uniforms_are_those_of_seed_and_index_while_requests_come_stay_and_go():
    random, drawn = np.random.default_rng(3), Uniforms()
    known = [make_request(str(i), i, 0, temperature=float(i % 3)) for i in range(9)]
    for _ in range(150):
        requests = [request for request in known if random.random() < 0.7]
        expected = [0.0 if r.sampling.is_greedy else uniform(r.seed, len(r.output_token_ids)) for r in requests]
        assert drawn.of(requests).tolist() == expected
        for request in requests:
            if random.random() < 0.9:  # or the step has failed, and comes again
                request.output_token_ids.append(9)


def test_uniforms_are_kept_for_those_who_are_asked_for_alone():
    requests, drawn = [make_request(str(i), i, 0) for i in range(3)], Uniforms()
    drawn.of(requests)
    drawn.of(requests[1:2])
    assert list(drawn._drawn) == requests[1:2]


def test_an_empty_batch_and_one_without_logprobs_ask_for_none():
    assert batch_of([]).num_logprobs.tolist() == []
    assert batch_of([make_request("a", 0, 0)]).num_logprobs.tolist() == [-1]


def test_the_next_batch_is_that_of_the_same_requests_one_token_later():
    requests = [
        make_request("a", 5, 0, temperature=0),
        make_request("b", 6, 3, temperature=0.5, top_k=7, logprobs=4),
        make_request("c", 7, 1),
    ]
    drawn = Uniforms()
    batch = SamplingBatch.of(requests, drawn)
    for _ in range(3):
        for request in requests:
            request.output_token_ids.append(9)
        batch, anew = batch.next(requests, drawn), batch_of(requests)
        for name in SamplingBatch.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(batch, name), getattr(anew, name), err_msg=name)
    assert batch.uniforms.tolist() == [0.0, uniform(6, 6), uniform(7, 4)]


def test_greedy_requests_need_no_next_batch():
    requests = [make_request("a", 5, 0, temperature=0), make_request("b", 6, 2, temperature=0, logprobs=1)]
    batch = batch_of(requests)
    assert batch.is_greedy and batch.has_logprobs
    requests[0].output_token_ids.append(9)
    assert batch.next(requests, Uniforms()) is batch
    drawn = batch_of([*requests, make_request("c", 7, 1)])
    assert not drawn.is_greedy and drawn.next([*requests, make_request("c", 7, 2)], Uniforms()) is not drawn


def test_whether_there_are_logprobs_is_about_any_request():
    assert not batch_of([make_request("a", 0, 0)]).has_logprobs
    assert batch_of([make_request("a", 0, 0), make_request("b", 0, 0, logprobs=0)]).has_logprobs
