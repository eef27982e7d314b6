"""An accelerator over torch's CPU that has done everything at once: for what other processes look into."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from lazy_plugin import LAZY
from torch import Tensor
from torch.distributed import ProcessGroup

from rtp_core.plugin import DeviceConfig, DeviceInfo, Manifest, host_memory_info
from rtp_torch.device import TorchDevice


class Passed:
    """A stream and an event of an accelerator that never has anything to wait for."""

    def record(self, stream: Passed) -> None: ...

    def query(self) -> bool:
        return True

    def synchronize(self) -> None: ...

    def wait_event(self, event: Passed) -> None: ...


class HostAccelerator:
    default_dtype = "float32"
    processors, is_narrow = 4, False

    def __init__(self) -> None:
        self._pinned_bytes = 0

    def multiplies(self, codes: torch.dtype) -> bool:
        return True

    def memory_info(self) -> tuple[int, int]:
        return host_memory_info()

    def reserve(self, nbytes: int) -> Tensor:
        return torch.empty(nbytes, dtype=torch.uint8)

    def pinned(self, nbytes: int) -> Tensor:
        self._pinned_bytes += nbytes
        return self.reserve(nbytes)

    def memory_beside(self) -> dict[str, int]:
        return {"pinned": self._pinned_bytes}

    def peak_beside(self) -> int:
        return self._pinned_bytes

    def new_event(self) -> Passed:
        return Passed()

    current_stream = new_stream = new_event

    def on(self, stream: Passed) -> AbstractContextManager[None]:
        return nullcontext()

    def synchronize(self) -> None: ...

    def launch(self, kernel: Callable[..., None], operands: Mapping[str, Any], writes: Collection[str]) -> None:
        kernel(**operands)

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        return step

    def release(self) -> None: ...


class HostDevice(TorchDevice):
    manifest: ClassVar[Manifest] = LAZY

    def __init__(self, budget: int, group: ProcessGroup) -> None:
        info, config = DeviceInfo("lazy:0", "host", budget, budget), DeviceConfig(memory_budget=budget)
        super().__init__(info, config, HostAccelerator(), group=group)
