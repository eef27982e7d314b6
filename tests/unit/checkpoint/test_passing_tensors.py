"""Tensors that are looked up in turn: the same contents as ever, and a file's pages do not pile up."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from rtp_core.checkpoint.mapped_file import forget_pages, map_file
from rtp_core.checkpoint.passing_tensors import PassingTensors
from rtp_core.memory.buffer import Buffer

NUMBER, NBYTES = 12, 1 << 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "weights"
    file.write_bytes(np.random.default_rng(5).bytes(NUMBER * NBYTES))
    return file


def tensors_of(path: Path) -> dict[str, Buffer]:
    rows = map_file(path).reshape(NUMBER, NBYTES)
    return {str(i): Buffer.borrow(row) for i, row in enumerate(rows)}


def resident_bytes(path: Path) -> int:
    """Of the mapping of a file, by the system's own account."""
    found = re.search(rf"{re.escape(str(path))}\n.*?Rss:\s+(\d+) kB", Path("/proc/self/smaps").read_text(), re.S)
    assert found is not None
    return int(found[1]) << 10


def test_contents_stay_the_file_s_however_often_they_are_looked_up(path: Path) -> None:
    expected = np.fromfile(path, np.uint8).reshape(NUMBER, NBYTES)
    tensors = PassingTensors(tensors_of(path))
    assert len(tensors) == NUMBER
    assert list(tensors) == [str(i) for i in range(NUMBER)]
    held = [tensors[name] for name in tensors]
    for i, tensor in enumerate(held):
        np.testing.assert_array_equal(tensor.numpy(), expected[i])
        np.testing.assert_array_equal(tensors[str(i)].numpy(), expected[i])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/smaps")
def test_pages_of_tensors_that_have_passed_are_let_go(path: Path) -> None:
    tensors = PassingTensors(tensors_of(path))
    for name in tensors:
        tensors[name].numpy().sum()
    assert resident_bytes(path) <= NUMBER * NBYTES // 2


def test_memory_that_is_no_file_s_is_left_alone() -> None:
    array = np.arange(1 << 16, dtype=np.uint8)
    forget_pages(array[100:])
    np.testing.assert_array_equal(array, np.arange(1 << 16, dtype=np.uint8))
