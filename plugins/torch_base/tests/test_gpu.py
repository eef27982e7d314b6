"""Without a GPU: what the accelerator calls in torch.cuda is there, and takes what it is given."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch

from rtp_core.plugin import DeviceError
from rtp_torch.accelerator import Accelerator
from rtp_torch.gpu import Gpu

CALLS: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    (torch.cuda.current_stream, {"device": 0}),
    (
        torch.cuda.graph.__init__,
        {"self": 0, "cuda_graph": 0, "pool": 0, "stream": 0, "capture_error_mode": "thread_local"},
    ),
    (torch.cuda.is_bf16_supported, {"including_emulation": False}),
    (torch.cuda.mem_get_info, {"device": 0}),
    (torch.cuda.device.__init__, {"self": 0, "device": 0}),
    (torch.cuda.set_device, {"device": 0}),
    (torch.cuda.Stream.__new__, {"cls": 0, "device": 0}),
    (torch.cuda.Event.__new__, {"cls": 0}),
    (torch.cuda.Event.record, {"self": 0, "stream": 0}),
    (torch.cuda.Event.query, {"self": 0}),
    (torch.cuda.Event.synchronize, {"self": 0}),
    (torch.cuda.Stream.wait_event, {"self": 0, "event": 0}),
    (torch.cuda.stream, {"stream": 0}),
    (torch.cuda.synchronize, {"device": 0}),
    (torch.cuda.CUDAGraph.replay, {"self": 0}),
]


@pytest.mark.parametrize(("function", "options"), CALLS, ids=lambda x: getattr(x, "__qualname__", ""))
def test_torch_has_what_is_called(function: Callable[..., Any], options: dict[str, Any]) -> None:
    inspect.signature(function).bind(**options)


def test_it_has_all_that_a_device_asks_for() -> None:
    asked = {name for name in vars(Accelerator) if not name.startswith("_")}
    assert asked
    assert asked - set(dir(Gpu)) == set()


def test_a_torch_without_gpus_is_an_error_that_says_so() -> None:
    if torch.cuda.is_available():
        pytest.skip("this torch has one")
    with pytest.raises(DeviceError, match=r"torch .* cannot compute on GPU 3: .+rtp env"):
        Gpu(3)
