"""The override of `sample`: token for token what the definition gives, in every corner of its filters."""

import numpy as np
import pytest

from rtp_core.device.host_sampling import sample
from rtp_core.plugin import DeviceError
from rtp_cpu.device import CpuDevice

ROWS = 6


def parameters(rng: np.random.Generator, rows: int = ROWS) -> dict[str, np.ndarray]:
    return {
        "temperature": rng.choice([0, 0.1, 0.7, 1, 5], rows).astype(np.float32),
        "top_k": rng.choice([0, 1, 5, 50, 5000], rows).astype(np.int64),
        "top_p": rng.choice([1, 0.9, 0.5, 0.01], rows).astype(np.float32),
        "min_p": rng.choice([0, 0, 0.05, 0.5], rows).astype(np.float32),
        "uniforms": rng.random(rows),
    }


@pytest.mark.parametrize("vocab", [1, 7, 100, 3000, 49152])
@pytest.mark.parametrize("kind", ["smooth", "ties", "masked", "flat"])
def test_it_draws_what_the_definition_draws(device: CpuDevice, rng: np.random.Generator, vocab: int, kind: str) -> None:
    for spread in (0.1, 3, 10):
        logits = (rng.standard_normal((ROWS, vocab)) * spread).astype(np.float32)
        if kind == "ties":
            logits = np.round(logits)
        elif kind == "masked":
            logits[:, rng.random(vocab) < 0.3] = -np.inf
            logits[:, vocab // 2] = 1
        elif kind == "flat":
            logits[:] = -2.5
        arguments = parameters(rng)
        got = device._sample(device.upload(logits, "logits"), **arguments)
        np.testing.assert_array_equal(got, sample(logits, **arguments))


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-53])
def test_the_ends_of_the_draw(device: CpuDevice, rng: np.random.Generator, uniform: float) -> None:
    logits = rng.standard_normal((ROWS, 500)).astype(np.float32)
    arguments = parameters(rng) | {"uniforms": np.full(ROWS, uniform)}
    got = device._sample(device.upload(logits, "logits"), **arguments)
    np.testing.assert_array_equal(got, sample(logits, **arguments))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_that_is_no_distribution_is_an_error(device: CpuDevice, bad: float, temperature: float) -> None:
    logits = np.zeros((2, 70), np.float32)
    logits[1, 33] = bad
    arguments = parameters(np.random.default_rng(0), 2) | {"temperature": np.full(2, temperature, np.float32)}
    with pytest.raises(DeviceError, match="largest logit"):
        device._sample(device.upload(logits, "logits"), **arguments)
    with pytest.raises(DeviceError, match="largest logit"):
        device._sample(device.upload(np.full((2, 70), -np.inf, np.float32), "logits"), **arguments)
