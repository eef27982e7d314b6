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
    (torch.cuda.memory_reserved, {"device": 0}),
    (torch.cuda.max_memory_reserved, {"device": 0}),
    (torch.cuda.reset_peak_memory_stats, {"device": 0}),
    (torch.cuda.memory_snapshot, {}),
    (torch.cuda.get_allocator_backend, {}),
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
    (torch.cuda.set_sync_debug_mode, {"debug_mode": "warn"}),
    (torch.cuda.CUDAGraph.replay, {"self": 0}),
]


@pytest.mark.parametrize(("function", "options"), CALLS, ids=lambda x: getattr(x, "__qualname__", ""))
def test_torch_has_what_is_called(function: Callable[..., Any], options: dict[str, Any]) -> None:
    inspect.signature(function).bind(**options)


def test_it_has_all_that_a_device_asks_for() -> None:
    asked = {name for name in vars(Accelerator) if not name.startswith("_")}
    assert asked
    assert asked - set(dir(Gpu)) == set()


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("CUDA error: invalid device ordinal\nGPU device may be out of range", "rtp devices list"),
        ("The NVIDIA driver on your system is too old (found version 12040).", "update the GPU's driver"),
        ("HIP error: HIP driver version is insufficient for HIP runtime version", "update the GPU's driver"),
        ("CUDA error: no kernel image is available for execution on the device", "install a torch that is built for"),
        ("HIP error: invalid device function", "install a torch that is built for this GPU"),
        ("CUDA error: out of memory", "end what else runs on this GPU"),
        ("CUDA error: all CUDA-capable devices are busy or unavailable", "end what has this GPU for itself"),
        ("No HIP GPUs are available", "rtp env"),
    ],
)
def test_each_reason_why_torch_cannot_compute_has_its_next_command(
    said: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing() -> None:
        raise RuntimeError(said)

    monkeypatch.setattr(torch.cuda, "init", failing)
    with pytest.raises(DeviceError, match="cannot compute on GPU 7") as caught:
        Gpu(7)
    assert caught.value.why == said.partition("\n")[0]
    assert caught.value.hint.startswith(remedy)


def test_a_torch_without_gpus_is_an_error_that_says_so() -> None:
    if torch.cuda.is_available():
        pytest.skip("this torch has one")
    with pytest.raises(DeviceError, match=r"torch .* cannot compute on GPU 3: .+rtp env"):
        Gpu(3)
