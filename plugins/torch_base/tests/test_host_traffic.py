"""A replayed decode step meets the host where it must, and nowhere else; each meeting is counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
from checkpoints import make_model, save
from decode_traffic import NEEDED, per_step, traffic
from lazy_device import LazyDevice

from rtp_core import LLM
from rtp_core.plugin import Buffer

ARRAY = np.ones((3, 4), np.float32)


@pytest.mark.usefixtures("plugin")
def test_a_replayed_decode_step_meets_the_host_as_often_as_it_must(tmp_path: Path) -> None:
    save(make_model("llama_tied"), tmp_path)
    with LLM(str(tmp_path), device="lazy_kernels", dtype="float32", memory_budget=64 << 20, max_model_len=32) as llm:
        assert llm.why_eager == ""
        assert per_step(llm, traffic) == NEEDED


@pytest.mark.parametrize(
    ("meet", "counted"),
    [
        (lambda device, x: device.upload(ARRAY, "y"), (1, 0, 0)),
        (lambda device, x: device.copy(Buffer.borrow(ARRAY.copy()), x), (0, 1, 0)),
        (lambda device, x: device.download(x), (0, 1, 1)),
        (lambda device, x: device.non_blocking_copy(Buffer.borrow(ARRAY.copy()), x).synchronize(), (0, 1, 1)),
        (lambda device, x: device.event().synchronize(), (0, 0, 1)),
        (lambda device, x: device.synchronize(), (0, 0, 1)),
        (lambda device, x: device.event().wait(), (0, 0, 0)),
        (lambda device, x: device.copy(device.add(x, x), x), (0, 0, 0)),
        (lambda device, x: device.bound({}).synchronize(), (0, 0, 1)),
    ],
)
def test_each_meeting_is_counted(
    device: LazyDevice, meet: Callable[[LazyDevice, Buffer], object], counted: tuple[int, ...]
) -> None:
    x = device.upload(ARRAY, "x")
    before = astuple(device._traffic)
    meet(device, x)
    assert tuple(b - a for a, b in zip(before, astuple(device._traffic), strict=True)) == counted
