"""Memory that libraries do not get fails a request and no more; a device that is lost says so at once, ever after."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import make_model, save
from faults import ILLEGAL_ACCESS, LostAtWait, NoMemoryAt
from lazy_accelerator import Fault, LazyAccelerator
from lazy_device import LazyDevice, open_device

from rtp_core import LLM, SamplingParams
from rtp_core.plugin import Buffer, DeviceFailedError, LibraryMemoryError, OutOfMemoryError, dtypes

GREEDY = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
PROMPT = [5, 3, 8, 1, 9]
BUDGET = 64 << 20  # bytes
NO_MEMORY: list[Exception] = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has 11.00 MiB free."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("HIP error: out of memory\nHIP kernel errors might be asynchronously reported"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save(make_model("llama_tied"), folder)
    return folder


@pytest.fixture(scope="module")
def llm(model: Path, plugin: None) -> Iterator[LLM]:
    """Of all tests after which it works on."""
    with opened(model) as llm:
        yield llm


def opened(model: Path, **options: Any) -> LLM:
    return LLM(str(model), device="lazy_graphs", dtype="float32", memory_budget=BUDGET, **options)


def accelerator(llm: LLM) -> LazyAccelerator:
    found: LazyAccelerator = llm.device._accelerator
    return found


def tokens(llm: LLM) -> tuple[int, ...]:
    return tuple(llm.generate([PROMPT], GREEDY)[0].token_ids)


def ops_of_a_request(llm: LLM) -> int:
    counting = NoMemoryAt(0, AssertionError())
    accelerator(llm).fault = counting
    tokens(llm)
    return -counting._left


# -- memory beside the arena -----------------------------------------------------------------------------------------


def test_a_library_without_memory_fails_the_request_and_the_next_is_served(llm: LLM) -> None:
    expected, count = tokens(llm), ops_of_a_request(llm)
    for at, error in zip((1, count // 2, count - 1), NO_MEMORY, strict=False):  # in the prompt and in decode steps
        accelerator(llm).fault = NoMemoryAt(at, error)
        with pytest.raises(LibraryMemoryError) as caught:
            tokens(llm)
        found = caught.value
        assert found.__cause__ is error
        assert found.where == "lazy_graphs:0"
        assert found.why.startswith(str(error).partition("\n")[0])
        assert f"the arena has {BUDGET >> 20}" in found.why
        assert found.hint == "give --memory-budget less than 64MiB: what it leaves is for libraries"
        assert "kv_cache" in found.table and "taken beside it" in found.table
        assert found.arena is llm.device.arena
        del found, caught
        error.__traceback__ = None  # it holds the operands of what failed
        assert not llm._loaded.engine.has_unfinished
        assert tokens(llm) == expected
        assert llm.device.arena.stats().public_bytes == 0


def test_a_batch_size_that_found_no_memory_when_it_was_recorded_is_recorded_later(llm: LLM) -> None:
    prompts = [PROMPT, PROMPT[:2]]
    expected = [output.token_ids for output in llm.generate(prompts, GREEDY)]
    replay = llm._loaded.engine._runner._replay
    replay._recorded.clear()
    record = replay._record

    def without_memory(count: int) -> str:
        accelerator(llm).fault = NoMemoryAt(5, NO_MEMORY[0])
        return record(count)

    replay._record = without_memory
    with pytest.raises(LibraryMemoryError):
        llm.generate(prompts, GREEDY)
    replay._record = record
    assert [output.token_ids for output in llm.generate(prompts, GREEDY)] == expected
    assert set(replay._recorded) == {2} and llm.why_eager == ""


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize(("at", "during"), [(1, "load_model"), (60, "capture")])
def test_at_load_it_ends_the_load(model: Path, at: int, during: str, monkeypatch: pytest.MonkeyPatch) -> None:
    released = plant_at_opening(monkeypatch, NoMemoryAt(at, NO_MEMORY[0]))
    with pytest.raises(LibraryMemoryError, match=r"beside the arena.*give --memory-budget less than 64MiB") as caught:
        opened(model)
    assert during in {frame.name for frame in traceback.extract_tb(caught.value.__cause__.__traceback__)}
    assert released == [True]


def test_a_budget_that_leaves_too_little_to_open_the_device_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_memory(accelerator: LazyAccelerator, nbytes: int) -> None:
        raise RuntimeError(said)

    monkeypatch.setattr(LazyAccelerator, "pinned", without_memory)
    said = "CUDA error: out of memory"
    with pytest.raises(LibraryMemoryError, match="give --memory-budget less than 64MiB"):
        open_device(LazyDevice, BUDGET)
    said = "CUDA error: invalid argument"
    with pytest.raises(RuntimeError, match="invalid argument"):
        open_device(LazyDevice, BUDGET)


def test_an_arena_that_is_full_fails_the_request_and_the_next_is_served(llm: LLM) -> None:
    expected = tokens(llm)
    stats = llm.device.arena.stats()
    held = [llm.device.alloc((stats.largest_hole_bytes - 4096,), dtypes.uint8, "hoarded")]
    with pytest.raises(OutOfMemoryError, match=r"most is held by hoarded.*raise --memory-budget") as caught:
        tokens(llm)
    assert type(caught.value) is OutOfMemoryError
    assert "hoarded" in caught.value.table
    held.clear()
    assert tokens(llm) == expected


# -- a lost device ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("plugin")
def test_a_lost_device_ends_every_request_at_once_and_is_closed_without_waiting(model: Path) -> None:
    llm = opened(model)
    streams = [llm.stream(PROMPT, GREEDY), llm.stream(PROMPT[:2], GREEDY)]
    for stream in streams:
        next(stream)
    fault = accelerator(llm).fault = LostAtWait(torch.AcceleratorError)
    expected = (
        r"lazy_graphs:0 is lost.*: CUDA error: an illegal memory access was encountered \(start again; with CUDA_"
    )
    for stream in streams:
        with pytest.raises(DeviceFailedError, match=expected):
            list(stream)
    assert not llm._loaded.engine.has_unfinished
    for _ in range(2):
        with pytest.raises(DeviceFailedError, match=expected):
            tokens(llm)
    llm.close()
    assert fault.is_told and fault.calls == 0, "it was asked for more after its end was known"


@pytest.mark.usefixtures("plugin")
def test_a_device_that_is_lost_while_a_model_is_loaded_ends_the_load(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = LostAtWait()
    plant_at_opening(monkeypatch, fault)
    with pytest.raises(DeviceFailedError, match="is lost"):
        opened(model)
    assert fault.calls == 0


@pytest.mark.usefixtures("plugin")
def test_a_loss_that_only_closing_finds_is_told(model: Path) -> None:
    llm = opened(model)
    fault = accelerator(llm).fault = LostAtWait()
    with pytest.raises(DeviceFailedError, match="is lost"):
        llm.close()
    llm.close()
    assert fault.calls == 0


@pytest.mark.parametrize(
    "use",
    [
        lambda device, x: device.add(x, x),
        lambda device, x: device.upload(np.zeros(3, np.float32), "y"),
        lambda device, x: device.download(x),
        lambda device, x: device.copy(x, x),
        lambda device, x: device.non_blocking_copy(x, x),
        lambda device, x: device.event(),
        lambda device, x: device.synchronize(),
        lambda device, x: device.capture(lambda: None),
    ],
)
def test_whatever_is_asked_of_a_lost_device_fails_at_once(
    device: LazyDevice, use: Callable[[LazyDevice, Buffer], object]
) -> None:
    x, other = (device.upload(np.ones(3, np.float32), name) for name in ("x", "other"))
    use(device, x)
    device.non_blocking_copy(other, x)  # still under way
    fault = device._accelerator.fault = LostAtWait()
    with pytest.raises(RuntimeError) as caught:
        device.synchronize()
    assert isinstance(device.failure(caught.value), DeviceFailedError)
    for ops in (device, device.bound({})):
        with pytest.raises(DeviceFailedError, match="is lost"):
            use(ops, x)
    assert fault.calls == 0


# -- which errors mean what ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", NO_MEMORY, ids=str)
def test_errors_of_libraries_that_lack_memory(device: LazyDevice, error: Exception) -> None:
    assert isinstance(device.failure(error), LibraryMemoryError)
    device.synchronize()


@pytest.mark.parametrize(
    "text",
    [
        ILLEGAL_ACCESS,
        "CUDA error: device-side assert triggered",
        "CUDA error: unspecified launch failure",
        "HIP error: unspecified launch failure",
        "CUDA error: misaligned address",
        "CUDA error: uncorrectable ECC error encountered",
        "CUDA error: the launch timed out and was terminated",
        "Triton Error [CUDA]: an illegal memory access was encountered",
    ],
)
def test_errors_after_which_nothing_runs(device: LazyDevice, text: str) -> None:
    assert isinstance(device.failure(RuntimeError(text)), DeviceFailedError)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: invalid argument"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
        ValueError("an illegal memory access, as a user wrote it"),
    ],
)
def test_other_errors_stay_what_they_are(device: LazyDevice, error: Exception) -> None:
    assert device.failure(error) is None
    device.synchronize()


def test_what_stands_behind_an_error_decides(device: LazyDevice) -> None:
    """As where memory runs out while a graph is recorded, and then the recording cannot be ended."""
    try:
        try:
            raise NO_MEMORY[0]
        finally:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
    except RuntimeError as error:
        assert isinstance(device.failure(error), LibraryMemoryError)


@pytest.mark.parametrize(("hip", "variable"), [(None, "CUDA_LAUNCH_BLOCKING=1"), ("6.4", "AMD_SERIALIZE_KERNEL=3")])
def test_the_next_command_is_the_vendors(
    device: LazyDevice, hip: str | None, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "hip", hip)
    failure = device.failure(RuntimeError(ILLEGAL_ACCESS))
    assert failure is not None and variable in failure.hint


def plant_at_opening(monkeypatch: pytest.MonkeyPatch, fault: Fault) -> list[bool]:
    """Every accelerator has this fault once its device is open. Returns what notes that it was released."""
    released: list[bool] = []
    init = LazyDevice.__init__

    def opening(device: LazyDevice, *args: Any) -> None:
        init(device, *args)
        device._accelerator.fault = fault
        device._accelerator.release = lambda: released.append(True)

    monkeypatch.setattr(LazyDevice, "__init__", opening)
    return released
