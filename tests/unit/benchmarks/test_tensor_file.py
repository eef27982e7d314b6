"""Files of tensors written one at a time are what safetensors reads."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from comparison.tensor_file import write_bfloat16
from safetensors.numpy import load_file

TENSORS = {
    "model.a.weight": np.arange(6).reshape(2, 3).astype(ml_dtypes.bfloat16),
    "b": np.full(5, -1.5, ml_dtypes.bfloat16),
}
SIZES = {name: values.shape for name, values in TENSORS.items()}


def test_safetensors_reads_what_was_written(tmp_path: Path) -> None:
    path = write_bfloat16(tmp_path / "m.safetensors", SIZES, iter(TENSORS.values()))
    found = load_file(path)
    assert found.keys() == TENSORS.keys()
    for name, values in TENSORS.items():
        assert found[name].dtype == ml_dtypes.bfloat16
        np.testing.assert_array_equal(found[name], values)


def test_one_tensor_is_asked_for_at_a_time(tmp_path: Path) -> None:
    partial, sizes = tmp_path / "m.safetensors.partial", []

    def tensors() -> object:
        for values in TENSORS.values():
            yield values
            sizes.append(partial.stat().st_size)

    write_bfloat16(tmp_path / "m.safetensors", SIZES, tensors())
    assert len(sizes) == 2 and not partial.exists()


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        (reversed(list(TENSORS.values())), r"model.a.weight is bfloat16 \(5,\), expected bfloat16 \(2, 3\)"),
        ([np.zeros((2, 3), np.float32)], r"model.a.weight is float32"),
        ([TENSORS["model.a.weight"]], "shorter"),
    ],
)
def test_tensors_that_were_not_announced_make_no_file(tmp_path: Path, tensors: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        write_bfloat16(tmp_path / "m.safetensors", SIZES, tensors)
    assert not (tmp_path / "m.safetensors").exists()
