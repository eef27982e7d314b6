"""Collectives among two processes over gloo: what each of them has got."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

WORLD_SIZE = 2


def test_two_processes(tmp_path: Path) -> None:
    script, rendezvous = Path(__file__).with_name("rank.py"), tmp_path / "rendezvous"
    ranks = [
        subprocess.Popen(
            [sys.executable, script, str(rank), str(WORLD_SIZE), rendezvous],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(WORLD_SIZE)
    ]
    outputs = [rank.communicate(timeout=60) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * WORLD_SIZE, outputs
    first = np.arange(6, dtype=np.float32).reshape(2, 3)
    second = first + 10
    for number, (text, _) in enumerate(outputs):
        found, own = json.loads(text), (first, second)[number].copy()
        assert (found.pop("rank"), found.pop("of")) == (number, WORLD_SIZE)
        own[:, ::2] = (first + second)[:, ::2]
        expected = {
            "sum": first + second,
            "gathered": np.hstack([first, second]),
            "of the last": second,
            "columns": np.hstack([first[:, 1:], second[:, 1:]]),
            "every other": own,
        }
        assert set(found) == {"float32", "bfloat16", "float16"}
        for results in found.values():  # whole numbers, which every dtype has
            assert results == {name: numbers.tolist() for name, numbers in expected.items()}
