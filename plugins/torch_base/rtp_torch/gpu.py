"""The accelerator of `torch.cuda`, which is NVIDIA's in a CUDA build of torch and AMD's in a ROCm build."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from rtp_core.plugin import DeviceError, OutOfMemoryError
from rtp_torch import scaled

# What keeps torch from computing, in its own or the driver's words, and what to do about it.
_REMEDIES = {
    "invalid device ordinal": "rtp devices list",
    "too old|insufficient for": "update the GPU's driver, or install a torch that is built for an older one",
    "no kernel image|invalid device function": "install a torch that is built for this GPU; rtp env shows which it is",
    "out of memory": "end what else runs on this GPU; nvidia-smi or rocm-smi shows it",
    "busy or unavailable": "end what has this GPU for itself; nvidia-smi or rocm-smi shows it",
}


class Gpu:
    """The GPU `index` among those that this process may see; `Accelerator` says what each method does."""

    def __init__(self, index: int) -> None:
        """Raises DeviceError where torch cannot compute on it."""
        self._device = torch.device("cuda", index)
        try:
            torch.cuda.init()
            torch.cuda.set_device(self._device)  # events and pinned memory are the current device's
            torch.ones(1, device=self._device).add_(1).item()
        except (AssertionError, RuntimeError) as error:  # a torch without GPUs asserts
            raise _unusable(index, str(error).partition("\n")[0]) from error
        # Sums stay in float32 where the library splits a product, as the contract wants.
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
        self._properties = torch.cuda.get_device_properties(self._device)
        self._graph_pool: Any = None
        self._arena_bytes = 0
        self._recording_stream = self.new_stream()
        self._multiplies: dict[torch.dtype, bool] = {}

    @property
    def default_dtype(self) -> str:
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"

    @property
    def processors(self) -> int:
        return self._properties.multi_processor_count  # type: ignore[no-any-return]

    @property
    def is_narrow(self) -> bool:
        return getattr(self._properties, "gcnArchName", "").startswith("gfx11")  # RDNA 3; NVIDIA's have no such name

    def multiplies(self, codes: torch.dtype) -> bool:
        if codes not in self._multiplies:  # asked when a model first has such weights: it loads the library
            self._multiplies[codes] = scaled.is_served(codes, self._device)
        return self._multiplies[codes]

    def memory_info(self) -> tuple[int, int]:
        free, total = torch.cuda.mem_get_info(self._device)
        return total, free

    def reserve(self, nbytes: int) -> Tensor:
        try:
            content = torch.empty(nbytes, dtype=torch.uint8, device=self._device)
        except torch.OutOfMemoryError as error:
            raise OutOfMemoryError(
                f"cannot reserve {nbytes} bytes on {self._device}",
                why=str(error),
                hint="ask for less with --memory-budget",
            ) from error
        self._arena_bytes = nbytes
        torch.cuda.reset_peak_memory_stats(self._device)  # it may remember an arena that was larger
        return content

    def memory_beside(self) -> Mapping[str, int]:
        """In this process, with what other devices have on the same GPU. Of what libraries and graphs take from the
        driver without asking torch, only `memory_info` knows."""
        beside, graphs = torch.cuda.memory_reserved(self._device) - self._arena_bytes, self._graph_bytes()
        return {"torch": beside - graphs, "torch's pool for recorded steps": graphs}

    def peak_beside(self) -> int:
        return torch.cuda.max_memory_reserved(self._device) - self._arena_bytes  # type: ignore[no-any-return]

    def _graph_bytes(self) -> int:
        if self._graph_pool is None or torch.cuda.get_allocator_backend() != "native":  # no other one has segments
            return 0
        segments = torch.cuda.memory_snapshot()
        return sum(segment["total_size"] for segment in segments if segment["segment_pool_id"] == self._graph_pool)

    def pinned(self, nbytes: int) -> Tensor:
        return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)

    def current_stream(self) -> torch.cuda.Stream:
        return torch.cuda.current_stream(self._device)

    def new_stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream(self._device)

    def on(self, stream: torch.cuda.Stream) -> AbstractContextManager[Any]:
        return torch.cuda.stream(stream)  # type: ignore[no-any-return]

    def new_event(self) -> torch.cuda.Event:
        return torch.cuda.Event()

    def synchronize(self) -> None:
        torch.cuda.synchronize(self._device)

    def launch(self, kernel: Callable[..., None], operands: Mapping[str, Any], writes: Collection[str]) -> None:
        with torch.cuda.device(self._device):  # where Triton launches, on the stream that torch calls current there
            kernel(**operands)

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        if self._graph_pool is None:
            self._graph_pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        # One pool for all: graphs are replayed one at a time, and results lie in the arena.
        with torch.cuda.graph(
            graph, pool=self._graph_pool, stream=self._recording_stream, capture_error_mode="thread_local"
        ):
            step()
        return graph.replay  # type: ignore[no-any-return]

    def release(self) -> None:
        torch.cuda.empty_cache()


def _unusable(index: int, why: str) -> DeviceError:
    remedy = next((remedy for words, remedy in _REMEDIES.items() if re.search(words, why)), "rtp env")
    return DeviceError(f"torch {torch.__version__} cannot compute on GPU {index}", why=why, hint=remedy)
