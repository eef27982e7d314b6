"""An accelerator over torch's CPU that has done everything at once: for what other processes look into."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar

import torch
from lazy_plugin import LAZY
from torch import Tensor
from torch.distributed import ProcessGroup

from rtp_core.plugin import DeviceConfig, DeviceInfo, Manifest, host_memory_info
from rtp_torch.device import TorchDevice


class HostAccelerator:
    """Its own stream and event, which never has anything to wait for."""

    default_dtype = "float32"

    def memory_info(self) -> tuple[int, int]:
        return host_memory_info()

    def reserve(self, nbytes: int) -> Tensor:
        return torch.empty(nbytes, dtype=torch.uint8)

    pinned = reserve

    def current_stream(self) -> HostAccelerator:
        return self

    new_stream = new_event = current_stream

    def on(self, stream: HostAccelerator) -> AbstractContextManager[None]:
        return nullcontext()

    def wait_event(self, event: HostAccelerator) -> None: ...

    def record(self, step: Callable[[], None] | None = None) -> Callable[[], None]:
        if step is not None:
            step()
        return lambda: None

    def query(self) -> bool:
        return True

    def synchronize(self) -> None: ...

    def release(self) -> None: ...


class HostDevice(TorchDevice):
    manifest: ClassVar[Manifest] = LAZY

    def __init__(self, budget: int, group: ProcessGroup) -> None:
        info, config = DeviceInfo("lazy:0", "host", budget, budget), DeviceConfig(memory_budget=budget)
        super().__init__(info, config, HostAccelerator(), group=group)
