"""An override that fails while a model runs: who failed, on what, what leaves it out; and nothing is tried instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rtp_core import LLM, SamplingParams
from rtp_core.device.failure import failed_override
from rtp_core.device.plan import Demand, resolve
from rtp_core.device.reference import ReferenceDevice
from rtp_core.engine import loading
from rtp_core.errors import DeviceError, DeviceFailedError, LibraryMemoryError, OutOfMemoryError, RtpError
from rtp_core.plugin import Buffer, Device, DeviceConfig, DeviceInfo, FfnWeights, Linear, overrides

from .conftest import RunRtp
from .tiny_encoder import write_encoder

GREEDY = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
OpenWith = Callable[[BaseException], None]


class FailingDevice(ReferenceDevice):
    """Its ffn raises what the test puts there; its linear layer calls down to that depth and works."""

    @overrides("ffn_layer", impl="acme.ffn", handles={"bias"})
    def _ffn(self, x: Buffer, weights: FfnWeights, *, out: Buffer | None = None) -> Buffer:
        self._calls.append(x.shape)
        if self._error is None:
            return self.linear(self._up(x, weights), weights.down, out=out)
        return self._launch(x)

    @overrides("linear", impl="acme.linear", handles={"bias"})
    def _linear(self, x: Buffer, weight: Linear, *, out: Buffer | None = None) -> Buffer:
        return self.gemm(x, weight.weight, bias=weight.bias, trans_b=True, out=out)

    def _launch(self, x: Buffer) -> Buffer:
        raise self._error


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Iterator[FailingDevice]:
    device = FailingDevice(DeviceInfo("acme:0", "test", 1 << 30, 1 << 30), DeviceConfig(memory_budget=64 << 20))
    device._calls, device._error = [], None
    monkeypatch.setattr(loading, "find", lambda name, **options: (None, None))
    monkeypatch.setattr(loading, "_create", lambda plugin, found, config, info: device)
    yield device
    if device._error is not None:
        device._error.__traceback__ = None  # it holds the operands of what failed


def fail_with(llm: LLM, error: BaseException) -> list[Any]:
    """From now on the override raises this. Returns where its calls are noted."""
    plan = llm.plan
    for phase in ("prefill", "decode"):
        plan.ops(phase).__dict__["_error"] = error
    calls: list[Any] = plan.ops("prefill").__dict__["_calls"]
    calls.clear()
    return calls


def test_a_failing_override_is_named_with_operands_and_what_disables_it(failing: Device, model: Path) -> None:
    error = RuntimeError("launch failed: invalid configuration")
    with LLM(str(model), dtype="float32", max_model_len=64) as llm:
        calls = fail_with(llm, error)
        with pytest.raises(DeviceError) as caught:
            llm.generate([[1, 2, 3]], GREEDY)
        found = caught.value
        assert type(found) is DeviceError
        assert found.what == "ffn_layer failed in acme.ffn"
        assert found.where == "acme:0"
        assert found.hint == "--disable-impl acme.ffn"
        assert "RuntimeError: launch failed: invalid configuration" in found.why
        assert "x float32 [3, 258]" in found.why
        assert "weights.up[0].weight float32 [2048, 258]" in found.why
        assert found.__cause__ is error
        assert len(calls) == 1  # not retried, and no other implementation either
        assert not llm._loaded.engine.has_unfinished
        fail_with(llm, None)  # type: ignore[arg-type]
        assert len(llm.generate([[1, 2, 3]], GREEDY)[0].token_ids) == 4


def test_an_error_of_rtps_own_is_wrapped_too_and_chained(failing: Device, model: Path) -> None:
    error = DeviceError("gemm: bad operands", where="acme:0")
    with LLM(str(model), dtype="float32", max_model_len=64) as llm:
        fail_with(llm, error)
        with pytest.raises(DeviceError, match=r"ffn_layer failed in acme\.ffn.*DeviceError: gemm: bad operands") as e:
            llm.generate([[1]], GREEDY)
        assert e.value.__cause__ is error


def test_what_is_not_an_overrides_fault_keeps_its_class(failing: Device, model: Path) -> None:
    full = OutOfMemoryError("out of memory", table="|  ADDR |")
    with LLM(str(model), dtype="float32", max_model_len=64) as llm:
        for error in (full, MemoryError(), KeyboardInterrupt()):
            fail_with(llm, error)
            with pytest.raises(type(error)) as caught:
                llm.generate([[1, 2]], GREEDY)
            assert caught.value is error
        assert full.table == "|  ADDR |"


def test_what_the_device_knows_of_an_error_goes_before_the_override(
    failing: Device, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error, asked = RuntimeError("ALLOC_FAILED"), []

    def explained(self: Any, found: Exception) -> RtpError:
        asked.append(found)
        return LibraryMemoryError("out of memory beside the arena")

    monkeypatch.setattr(FailingDevice, "failure", explained)
    with LLM(str(model), dtype="float32", max_model_len=64) as llm:
        fail_with(llm, error)
        with pytest.raises(LibraryMemoryError) as caught:
            llm.generate([[1, 2]], GREEDY)
        assert caught.value.__cause__ is error and asked == [error]
        fail_with(llm, None)  # type: ignore[arg-type]
        assert len(llm.generate([[1, 2, 3]], GREEDY)[0].token_ids) == 4


def test_a_device_that_is_lost_is_asked_for_no_other_step(failing: Device, model: Path, rtp: RunRtp) -> None:
    error = DeviceFailedError("acme:0 is lost", why="bus error", hint="start again")
    with LLM(str(model), dtype="float32", max_model_len=64) as llm:
        streams = [llm.stream([1, 2], GREEDY), llm.stream([3], GREEDY)]
        for stream in streams:
            next(stream)
        calls = fail_with(llm, error)
        for stream in [*streams, llm.stream([4], GREEDY), llm.stream([5], GREEDY)]:
            with pytest.raises(DeviceFailedError, match=r"^acme:0 is lost: bus error \(start again\)$"):
                list(stream)
        assert len(calls) == 1
        assert not llm._loaded.engine.has_unfinished
    failing._error = error
    result = rtp("generate", "a", "--model", model, "--dtype", "float32", "--max-model-len", 512)
    assert result.exit_code == 4, result.stderr
    assert "acme:0 is lost" in result.stderr and "try:   start again" in result.stderr


def test_an_encoder_on_a_lost_device_reads_no_other_text(failing: Device, tmp_path: Path) -> None:
    with LLM(str(write_encoder(tmp_path)), dtype="float32") as llm:
        calls = fail_with(llm, DeviceFailedError("acme:0 is lost"))
        for text in ("a cab", "a"):
            with pytest.raises(DeviceFailedError, match="acme:0 is lost"):
                llm.embed(text)
        assert len(calls) == 1


def test_an_error_outside_all_overrides_stays_as_it_is(
    failing: Device, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Any, *args: Any, **options: Any) -> Any:
        raise ZeroDivisionError("in a primitive")

    with LLM(str(model), dtype="float32", max_model_len=64) as llm:
        monkeypatch.setattr(FailingDevice, "rms_norm", broken)
        with pytest.raises(ZeroDivisionError):
            llm.generate([[1]], GREEDY)


def test_the_innermost_override_is_named(failing: Device, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gemm = ReferenceDevice.gemm

    def broken(self: Any, a: Any, b: Any, **options: Any) -> Any:
        if b.shape[0] == 2048:  # the ffn's, which acme.ffn calls acme.linear for
            raise ValueError("gemm is broken")
        return gemm(self, a, b, **options)

    with LLM(str(model), dtype="float32", max_model_len=64) as llm:
        monkeypatch.setattr(FailingDevice, "gemm", broken)
        with pytest.raises(DeviceError, match=r"linear failed in acme\.linear.*x float32 \[1, 258\]"):
            llm.generate([[1]], GREEDY)


def test_an_override_that_was_disabled_is_never_called(failing: Any, model: Path) -> None:
    with LLM(str(model), dtype="float32", max_model_len=64, disable_impl=("acme.ffn",)) as llm:
        fail_with(llm, RuntimeError("launch failed"))
        assert len(llm.generate([[1, 2, 3]], GREEDY)[0].token_ids) == 4
        assert failing._calls == []


def test_the_command_line_ends_with_4_and_tells_what_to_try(failing: Any, model: Path, rtp: RunRtp) -> None:
    failing._error = RuntimeError("launch failed")
    arguments = ["generate", "a", "--model", model, "--dtype", "float32", "--max-model-len", 512]
    result = rtp(*arguments)
    assert result.exit_code == 4
    assert "error: ffn_layer failed in acme.ffn" in result.stderr
    assert "try:   --disable-impl acme.ffn" in result.stderr
    assert "Traceback" not in result.stderr
    assert rtp(*arguments, "--disable-impl", "acme.ffn").exit_code == 0
    assert "launch failed" in rtp(*arguments, "--debug").stderr


def test_operands_are_found_in_sequences_and_keywords_and_there_is_an_end_to_them() -> None:
    device = FailingDevice(DeviceInfo("acme:0", "test", 1 << 30, 1 << 30), DeviceConfig(memory_budget=1 << 20))
    plan = resolve(device, Demand("float32"))
    (override,) = [o for o in plan.serving if o.op == "linear"]
    try:
        override.function(device, [device.alloc((2, 2), _float32(), "x")] * 40, None)
    except AttributeError as error:
        found = failed_override(error, plan.serving, "acme:0")
    assert found is not None
    assert found.why.count("float32 [2, 2]") == 16
    assert failed_override(ValueError("nobody's"), plan.serving, "acme:0") is None


def _float32() -> Any:
    from rtp_core import dtypes

    return dtypes.float32
