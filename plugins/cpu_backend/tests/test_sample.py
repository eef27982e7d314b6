"""The override of `sample` against its default, which is NumPy on the host."""

from typing import Any

import numpy as np
import pytest

from rtp_core.plugin import Device, DeviceError, dtypes

WIDTHS = [1, 2, 7, 8, 15, 33, 1031]


def parameters(rows: int, temperature: float | np.ndarray) -> dict[str, Any]:
    return {
        "temperature": np.full(rows, temperature, np.float32),
        "top_k": np.full(rows, 20),
        "top_p": np.full(rows, 0.9, np.float32),
        "min_p": np.zeros(rows, np.float32),
        "uniforms": np.linspace(0.01, 0.99, rows),
    }


def both(device: Device, logits: np.ndarray, temperature: float | np.ndarray = 0.0) -> list[np.ndarray]:
    """Tokens by the override and by the default."""
    placed = device.upload(logits, "logits")
    options = parameters(len(logits), temperature)
    return [device._sample(placed, **options), Device.sample(device, placed, **options)]


@pytest.mark.parametrize("width", WIDTHS)
def test_greedy_tokens_are_the_first_largest(device: Device, rng: np.random.Generator, width: int) -> None:
    for logits in (rng.standard_normal((9, width)), rng.integers(-2, 2, (9, width))):
        got, expected = both(device, logits.astype(np.float32))
        np.testing.assert_array_equal(got, expected)
        assert got.dtype == np.int64


def test_masked_tokens_are_never_chosen(device: Device, rng: np.random.Generator) -> None:
    logits = rng.standard_normal((5, 37)).astype(np.float32)
    logits[rng.random(logits.shape) < 0.8] = -np.inf
    logits[:, 36] = -3e38  # of all that is left the least, and still something
    got, expected = both(device, logits)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.nan], ids=str)
def test_a_row_without_a_largest_number_is_an_error(device: Device, width: int, value: float) -> None:
    for place in {0, width // 2, width - 1}:
        logits = np.zeros((3, width), np.float32)
        logits[1, place] = value
        errors = []
        for choose in (device._sample, lambda *args, **options: Device.sample(device, *args, **options)):
            with pytest.raises(DeviceError) as error:
                choose(device.upload(logits, "logits"), **parameters(3, 0.0))
            errors.append(str(error.value))
        assert errors[0] == errors[1]


def test_a_row_of_nothing_is_an_error(device: Device) -> None:
    logits = np.zeros((2, 19), np.float32)
    logits[1] = -np.inf
    with pytest.raises(DeviceError):
        both(device, logits)


def test_rows_to_be_drawn_are_drawn_as_by_default(device: Device, rng: np.random.Generator) -> None:
    logits = rng.standard_normal((6, 301)).astype(np.float32)
    for temperature in (0.8, np.array([0, 0.5, 0, 1, 2, 0])):
        got, expected = both(device, logits, temperature)
        np.testing.assert_array_equal(got, expected)


def test_rows_may_lie_apart(device: Device, rng: np.random.Generator) -> None:
    logits = rng.standard_normal((4, 64)).astype(np.float32)
    placed = device.upload(logits, "logits")[:, 5:38]
    got = device._sample(placed, **parameters(4, 0.0))
    np.testing.assert_array_equal(got, logits[:, 5:38].argmax(axis=-1))


def test_no_rows_give_no_tokens(device: Device) -> None:
    got = device._sample(device.alloc((0, 9), dtypes.float32, "logits"), **parameters(0, 0.0))
    assert got.shape == (0,)
