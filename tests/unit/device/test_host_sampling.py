"""Sampling and log probabilities against slow definitions in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rtp_core.device import host_sampling
from rtp_core.device.host_sampling import log_softmax, sample, token_logprobs
from rtp_core.errors import DeviceError


def call(logits, *, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, uniforms=0.0):
    rows = len(logits)
    return sample(
        np.asarray(logits, np.float32),
        temperature=np.broadcast_to(np.asarray(temperature, np.float32), rows),
        top_k=np.broadcast_to(np.asarray(top_k, np.int64), rows),
        top_p=np.broadcast_to(np.asarray(top_p, np.float32), rows),
        min_p=np.broadcast_to(np.asarray(min_p, np.float32), rows),
        uniforms=np.broadcast_to(np.asarray(uniforms, np.float64), rows),
    )


def slow_distribution(row, temperature, top_k, top_p, min_p):
    """Ids in descending order of probability and their renormalised probabilities; one plain loop a filter."""
    temperature, top_p, min_p = (float(np.float32(x)) for x in (temperature, top_p, min_p))
    probabilities = torch.softmax(torch.tensor(row, dtype=torch.float64) / temperature, -1).tolist()
    order = sorted(range(len(row)), key=lambda i: (-row[i], i))
    if top_k > 0:
        order = order[:top_k]
    total = sum(probabilities[i] for i in order)
    if top_p < 1:
        mass, kept = 0.0, []
        for i in order:
            kept.append(i)
            mass += probabilities[i] / total
            if mass >= top_p:
                break
        order = kept
    order = [i for i in order if probabilities[i] >= min_p * probabilities[order[0]]]
    total = sum(probabilities[i] for i in order)
    return order, [probabilities[i] / total for i in order]


def slow_choice(row, uniform, *filters):
    order, probabilities = slow_distribution(row, *filters)
    passed = 0.0
    for i, probability in zip(order, probabilities, strict=True):
        passed += probability
        if uniform < passed:
            return i
    return order[-1]


FILTERS = [
    (1.0, 0, 1.0, 0.0),
    (0.7, 0, 1.0, 0.0),
    (1.0, 1, 1.0, 0.0),
    (1.5, 20, 1.0, 0.0),
    (1.0, 0, 0.9, 0.0),
    (1.0, 0, 0.01, 0.0),
    (1.0, 0, 1.0, 0.1),
    (1.0, 0, 1.0, 1.0),
    (0.8, 40, 0.95, 0.05),
    (3.0, 10**6, 0.5, 0.001),
    (2.0, 0, 0.99, 0.0001),
]


@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize("spread", [0.5, 4.0])
def test_every_filter_agrees_with_the_slow_definition(filters, spread):
    rng = np.random.default_rng(7)
    logits = (rng.normal(size=(24, 300)) * spread).astype(np.float32)
    uniforms = rng.random(24)
    temperature, top_k, top_p, min_p = filters
    got = call(logits, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, uniforms=uniforms)
    expected = [slow_choice(row.tolist(), u, *filters) for row, u in zip(logits, uniforms, strict=True)]
    assert got.tolist() == expected
    assert got.dtype == np.int64


@pytest.mark.parametrize("filters", FILTERS)
def test_a_flat_vocabulary_larger_than_the_first_head_agrees_too(filters):
    rng = np.random.default_rng(8)
    logits = (rng.normal(size=(6, 4 * host_sampling._HEAD)) * 0.3).astype(np.float32)
    uniforms = np.array([0.0, 0.2, 0.5, 0.9, 0.999, 1 - 2**-53])
    temperature, top_k, top_p, min_p = filters
    got = call(logits, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, uniforms=uniforms)
    expected = [slow_choice(row.tolist(), u, *filters) for row, u in zip(logits, uniforms, strict=True)]
    assert got.tolist() == expected


@pytest.mark.parametrize("filters", [(1.0, 0, 1.0, 0.0), (0.6, 5, 1.0, 0.0), (1.3, 0, 0.8, 0.0), (1.0, 0, 0.97, 0.1)])
def test_a_grid_of_uniforms_reproduces_the_distribution(filters):
    rng = np.random.default_rng(9)
    row = (rng.normal(size=30) * 1.5).astype(np.float32)
    points = 20_000
    temperature, top_k, top_p, min_p = filters
    drawn = call(
        np.broadcast_to(row, (points, 30)),
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        uniforms=(np.arange(points) + 0.5) / points,
    )
    counts = np.bincount(drawn, minlength=30)
    expected = np.zeros(30)
    order, probabilities = slow_distribution(row.tolist(), *filters)
    expected[order] = probabilities
    # An interval of length p holds p * points grid points, give or take one.
    assert np.abs(counts - expected * points).max() <= 1.0 + 1e-6
    assert counts[expected == 0].sum() == 0


def test_rows_with_different_parameters_do_not_touch_each_other():
    rng = np.random.default_rng(10)
    logits = (rng.normal(size=(len(FILTERS) + 1, 200)) * 2).astype(np.float32)
    columns = np.array([*FILTERS, (0.0, 0, 1.0, 0.0)])
    uniforms = rng.random(len(columns))
    got = call(
        logits,
        temperature=columns[:, 0],
        top_k=columns[:, 1].astype(np.int64),
        top_p=columns[:, 2],
        min_p=columns[:, 3],
        uniforms=uniforms,
    )
    alone = [slow_choice(logits[i].tolist(), uniforms[i], *FILTERS[i]) for i in range(len(FILTERS))]
    assert got.tolist() == [*alone, int(logits[-1].argmax())]


def test_greedy_takes_the_lowest_id_on_ties_and_ignores_the_filters():
    logits = [[0.0, 3.0, 1.0, 3.0], [5.0, 5.0, 5.0, 5.0]]
    assert call(logits, temperature=0.0, top_k=2, top_p=0.1, uniforms=0.99).tolist() == [1, 0]


def test_equal_logits_at_the_border_of_top_k_are_kept_by_id():
    row = [1.0, 2.0, 1.0, 1.0, 2.0, 1.0]
    uniforms = (np.arange(1000) + 0.5) / 1000
    assert set(call([row] * 1000, top_k=3, uniforms=uniforms).tolist()) == {0, 1, 4}
    assert set(call([row] * 1000, top_k=4, uniforms=uniforms).tolist()) == {0, 1, 2, 4}


def test_equal_probabilities_are_ordered_by_id():
    logits = np.zeros((8, 8), np.float32)
    assert call(logits, uniforms=(np.arange(8) + 0.5) / 8).tolist() == list(range(8))


def test_a_uniform_on_the_border_belongs_to_the_token_after_it():
    assert call(np.zeros((4, 4), np.float32), uniforms=np.arange(4) / 4).tolist() == [0, 1, 2, 3]


def test_top_p_stops_at_the_token_that_reaches_the_mass_exactly():
    logits = np.zeros((400, 4), np.float32)  # a quarter each
    uniforms = (np.arange(400) + 0.5) / 400
    assert set(call(logits, top_p=0.5, uniforms=uniforms).tolist()) == {0, 1}
    assert set(call(logits, top_p=0.500001, uniforms=uniforms).tolist()) == {0, 1, 2}


def test_top_p_counts_mass_within_top_k():
    logits = np.log(np.array([[0.4, 0.3, 0.2, 0.1]], np.float32)).repeat(400, 0)
    uniforms = (np.arange(400) + 0.5) / 400
    # 0.4 of 0.7 is 0.57: enough for 0.55, while 0.4 of 1 is not.
    assert set(call(logits, top_k=2, top_p=0.55, uniforms=uniforms).tolist()) == {0}
    assert set(call(logits, top_p=0.55, uniforms=uniforms).tolist()) == {0, 1}


def test_masked_tokens_are_never_chosen():
    row = np.full(3000, -np.inf, np.float32)
    row[[17, 2900]] = [0.5, 0.0]
    uniforms = [0.0, 0.3, 0.9, 1 - 2**-53]
    for top_k, top_p in ((0, 1.0), (50, 1.0), (0, 0.999), (2500, 1.0)):
        got = call([row] * 4, top_k=top_k, top_p=top_p, uniforms=uniforms)
        assert got.tolist() == [17, 17, 2900, 2900]


@pytest.mark.parametrize("temperature", [1e-45, 1e-30, 1e-6])
def test_a_tiny_temperature_is_greedy_and_warns_of_nothing(temperature):
    logits = np.array([[-3e38, 10.0, 9.0, -5.0] * 600], np.float32)
    logits[0, 77] = 10.5
    assert call(logits, temperature=temperature, uniforms=1 - 2**-53).tolist() == [77]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [np.nan, np.inf, None])
def test_rows_without_a_finite_peak_are_an_error_naming_the_row(temperature, bad):
    logits = np.zeros((3, 5), np.float32)
    if bad is None:
        logits[1] = -np.inf
    else:
        logits[1, 2] = bad
    with pytest.raises(DeviceError, match="row 1"):
        call(logits, temperature=temperature)
    with pytest.raises(DeviceError, match="row 1"):
        token_logprobs(logits, np.zeros(3, np.int64), 2)


def test_no_rows_give_no_tokens():
    assert call(np.zeros((0, 5), np.float32)).shape == (0,)
    own, ids, top = token_logprobs(np.zeros((0, 5), np.float32), np.zeros(0, np.int64), 2)
    assert own.shape == (0,) and ids.shape == top.shape == (0, 2)


def test_the_arguments_are_not_written_to():
    logits = np.random.default_rng(11).normal(size=(3, 2000)).astype(np.float32)
    logits.flags.writeable = False
    call(logits, top_k=5, top_p=0.9, uniforms=0.5)
    token_logprobs(logits, np.zeros(3, np.int64), 5)


def test_log_softmax_equals_torch_in_float64():
    logits = (np.random.default_rng(12).normal(size=(5, 5000)) * 6).astype(np.float32)
    expected = torch.log_softmax(torch.from_numpy(logits).double(), -1).numpy()
    got = log_softmax(logits)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=0, atol=4e-6)
    np.testing.assert_allclose(np.exp(got.astype(np.float64)).sum(-1), 1.0, atol=1e-5)


@pytest.mark.parametrize("num_top", [0, 1, 5, 900, 5000])
def test_token_logprobs_equal_torch(num_top):
    rng = np.random.default_rng(13)
    logits = (rng.normal(size=(7, 900)) * 5 + 30).astype(np.float32)
    token_ids = rng.integers(0, 900, 7)
    expected = torch.log_softmax(torch.from_numpy(logits).double(), -1)
    own, top_ids, top = token_logprobs(logits, token_ids, num_top)
    kept = min(num_top, 900)
    np.testing.assert_allclose(own, expected.numpy()[np.arange(7), token_ids], atol=1e-5)
    values, ids = expected.topk(kept, dim=-1)
    assert top_ids.shape == top.shape == (7, kept)
    assert top_ids.tolist() == ids.tolist()
    np.testing.assert_allclose(top, values.numpy(), atol=1e-5)
    assert own.dtype == top.dtype == np.float32 and top_ids.dtype == np.int64


def test_the_top_of_equal_logits_is_by_id():
    _, ids, top = token_logprobs(np.zeros((1, 64), np.float32), np.array([9]), 3)
    assert ids.tolist() == [[0, 1, 2]]
    np.testing.assert_allclose(top, -np.log(64), rtol=1e-6)
