"""Devices with one defect each. They are right in everything else, so that one group of the suite has to find it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from rtp_core.device import services
from rtp_core.device.reference import ReferenceDevice
from rtp_core.plugin import (
    YES,
    AttentionBatch,
    Buffer,
    DeclaredOverride,
    Device,
    DeviceConfig,
    DeviceInfo,
    DType,
    Event,
    Linear,
    Manifest,
    No,
    OutOfMemoryError,
    Shape,
    Signature,
    overrides,
    rehearsal_of,
)

BAD: dict[str, type[Device]] = {}


def manifest_of(*declared: DeclaredOverride) -> Manifest:
    """The reference's, in one dtype and one scheme: a defect need not be found in each of them."""
    return replace(
        ReferenceDevice.manifest,
        kind="bad",
        dtypes=("float32",),
        schemes=("q8_0",),
        overrides=declared,
        kv_layouts=("KBD", "BKD"),
    )


def found_in(group: str) -> Callable[[type[Device]], type[Device]]:
    """The group whose business the defect is."""

    def register(cls: type[Device]) -> type[Device]:
        BAD[f"{group}: {cls.__name__}"] = cls
        return cls

    return register


class Bad(ReferenceDevice):
    """Nothing is wrong with this one."""

    manifest: ClassVar[Manifest] = manifest_of()


# -- contract ------------------------------------------------------------------------------------------------------


@found_in("contract")
class Mutator(Bad):
    """Changes core for everybody."""

    def __init__(self, info: DeviceInfo, config: DeviceConfig) -> None:
        super().__init__(info, config)
        services.Event.wait = lambda self: None  # type: ignore[method-assign]


@found_in("contract")
class Typo(Bad):
    """Declares another override than it has."""

    manifest = manifest_of(DeclaredOverride("linear", "bad.linaer", handles=frozenset({"bias"})))

    @overrides("linear", impl="bad.linear", handles={"bias"})
    def _linear(self, x: Buffer, weight: Linear, *, out: Buffer | None = None) -> Buffer:
        return Device.linear(self, x, weight, out=out)


class _Conditional(Bad):
    manifest = manifest_of(DeclaredOverride("gated_activation", "bad.gated", is_conditional=True))


@found_in("contract")
class BareBool(_Conditional):
    """Answers True where YES or No(reason) is agreed."""

    @overrides("gated_activation", impl="bad.gated", when=lambda s: True)  # type: ignore[arg-type,return-value]
    def _gated(self, x: Buffer, *, kind: str, out: Buffer | None = None) -> Buffer:
        return Device.gated_activation(self, x, kind=kind, out=out)


_asked: list[Signature] = []


def _fickle(signature: Signature) -> Any:
    _asked.append(signature)
    return YES if len(_asked) % 3 else No("not this time")


@found_in("contract")
class Fickle(_Conditional):
    """Changes its mind."""

    @overrides("gated_activation", impl="bad.gated", when=_fickle)
    def _gated(self, x: Buffer, *, kind: str, out: Buffer | None = None) -> Buffer:
        return Device.gated_activation(self, x, kind=kind, out=out)


@found_in("contract")
class TooFew(Bad):
    """Records steps of at most 64 requests."""

    def capture_size(self, num_requests: int) -> int:
        return min(num_requests, 64)


@found_in("contract")
class OtherRehearsal(Bad):
    """Rehearses steps of other sizes than it records."""

    def rehearsal(self) -> Device:
        return rehearsal_of(self).bound({"capture_size": lambda self, num_requests: 2 * num_requests})


# -- primitives ----------------------------------------------------------------------------------------------------


@found_in("primitives")
class WrongGemm(Bad):
    """Loses the last column of the sum."""

    def gemm(
        self, a: Buffer, b: Buffer, *, bias: Buffer | None = None, trans_b: bool = False, out: Buffer | None = None
    ) -> Buffer:
        x = a.numpy().copy()
        x[..., -1:] *= 0.99
        return super().gemm(Buffer.borrow(x), b, bias=bias, trans_b=trans_b, out=out)


@found_in("primitives")
class StrideIgnorer(Bad):
    """Reads every operand as if it had no gaps."""

    def mul(self, a: Buffer, b: Buffer, *, out: Buffer | None = None) -> Buffer:
        dense = Buffer(a.storage, a.dtype, a.shape, None, a.offset)
        return super().mul(dense, b, out=out)


@found_in("primitives")
class Scribbler(Bad):
    """Writes whole vectors, past the end of its output."""

    def add(self, a: Buffer, b: Buffer, *, out: Buffer | None = None) -> Buffer:
        result = super().add(a, b, out=out)
        end = result.offset // 4 + sum(s * (n - 1) for s, n in zip(result.strides, result.shape, strict=True))
        everything = result.storage.host_bytes()
        assert everything is not None
        if result.size and (end + 2) * 4 <= everything.size:
            everything.view(np.float32)[end + 1] = 0
        return result


@found_in("primitives")
class NanMaker(Bad):
    """A softmax that does not take the largest score off first."""

    def softmax(
        self,
        x: Buffer,
        *,
        scale: float = 1.0,
        softcap: float | None = None,
        mask: Buffer | None = None,
        out: Buffer | None = None,
    ) -> Buffer:
        result = super().softmax(x, scale=scale, softcap=softcap, mask=mask, out=out)
        result.numpy()[np.abs(x.numpy()) > 1e4] = np.nan
        return result


@found_in("primitives")
class InputWriter(Bad):
    """Works in the memory of its operand."""

    def rms_norm(self, x: Buffer, weight: Buffer, *, eps: float, out: Buffer | None = None) -> Buffer:
        result = super().rms_norm(x, weight, eps=eps, out=out)
        x.numpy()[...] = result.numpy()
        return result


@found_in("primitives")
class RowsCounter(Bad):
    """Divides by the number of rows."""

    def layer_norm(self, x: Buffer, weight: Buffer, bias: Buffer, *, eps: float, out: Buffer | None = None) -> Buffer:
        _ = 1 // x.shape[0]
        return super().layer_norm(x, weight, bias, eps=eps, out=out)


# -- composites and honesty ----------------------------------------------------------------------------------------


@found_in("composites")
class Raiser(Bad):
    """An override that is not finished."""

    manifest = manifest_of(DeclaredOverride("gated_activation", "bad.gated"))

    @overrides("gated_activation", impl="bad.gated")
    def _gated(self, x: Buffer, *, kind: str, out: Buffer | None = None) -> Buffer:
        raise ValueError("no kernel for this")


@found_in("composites")
class FeatureIgnorer(Bad):
    """Says that it handles a bias, and does not."""

    manifest = manifest_of(DeclaredOverride("linear", "bad.linear", handles=frozenset({"bias"})))

    @overrides("linear", impl="bad.linear", handles={"bias"})
    def _linear(self, x: Buffer, weight: Linear, *, out: Buffer | None = None) -> Buffer:
        return self.gemm(x, weight.weight, trans_b=True, out=out)


@found_in("honesty")
class Liar(Bad):
    """Says YES to every size, and stops after 64 columns."""

    manifest = manifest_of(DeclaredOverride("gated_activation", "bad.gated", is_conditional=True))

    @overrides("gated_activation", impl="bad.gated", when=lambda s: YES)
    def _gated(self, x: Buffer, *, kind: str, out: Buffer | None = None) -> Buffer:
        result = Device.gated_activation(self, x, kind=kind, out=out)
        result.numpy()[:, 64:] = 0
        return result


# -- memory --------------------------------------------------------------------------------------------------------


@found_in("memory")
class Leaker(Bad):
    """Keeps every result."""

    def __init__(self, info: DeviceInfo, config: DeviceConfig) -> None:
        super().__init__(info, config)
        self._kept: list[Buffer] = []

    def cast(self, x: Buffer, dtype: DType, *, out: Buffer | None = None) -> Buffer:
        self._kept.append(super().cast(x, dtype, out=out))
        return self._kept[-1]


@found_in("memory")
class OomSwallower(Bad):
    """Takes memory from elsewhere when its own is used up."""

    def alloc(self, shape: Shape, dtype: DType, tag: str) -> Buffer:
        try:
            return super().alloc(shape, dtype, tag)
        except OutOfMemoryError:
            return Buffer.borrow(np.zeros(shape, dtype.numpy), tag)


@found_in("memory")
class NeverRecovers(Bad):
    """Is confused after it has run out once."""

    def __init__(self, info: DeviceInfo, config: DeviceConfig) -> None:
        super().__init__(info, config)
        self._state = {"confused": False}

    def alloc(self, shape: Shape, dtype: DType, tag: str) -> Buffer:
        try:
            return super().alloc(shape, dtype, tag)
        except OutOfMemoryError:
            self._state["confused"] = True
            raise

    def gemm(
        self, a: Buffer, b: Buffer, *, bias: Buffer | None = None, trans_b: bool = False, out: Buffer | None = None
    ) -> Buffer:
        result = super().gemm(a, b, bias=bias, trans_b=trans_b, out=out)
        if self._state["confused"]:
            result.numpy()[...] = 0
        return result


@found_in("memory")
class NegativeBeside(Bad):
    """Takes for its libraries' what is left of another sum."""

    def memory_beside(self) -> dict[str, int]:
        return {"libbad": 4096 - self.arena.stats().total_bytes}


@found_in("memory")
class NamelessBeside(Bad):
    """Does not say whose it is."""

    def memory_beside(self) -> dict[str, int]:
        return {" ": 4096}


# -- copies, kv, determinism ---------------------------------------------------------------------------------------


@found_in("copies")
class BadCopy(Bad):
    """Takes the last axis of every source for contiguous."""

    def copy(self, dst: Buffer, src: Buffer) -> None:
        if src.shape and src.strides[-1] not in (0, 1):
            src = Buffer(src.storage, src.dtype, src.shape, (*src.strides[:-1], 1), src.offset)
        super().copy(dst, src)


@found_in("copies")
class EarlyEvent(Bad):
    """Its event passes before what it copies has arrived."""

    def non_blocking_copy(self, dst: Buffer, src: Buffer) -> Event:
        return self.event()


@found_in("kv")
class KvOffByOne(Bad):
    """Where tokens come first in a block, the second one is read for the first."""

    def kv_gather(self, kv: Buffer, block_table: Buffer, num_tokens: int) -> tuple[Buffer, Buffer]:
        k, v = super().kv_gather(kv, block_table, num_tokens)
        if num_tokens > 1 and kv.strides[2] < kv.strides[3]:
            k.numpy()[:, 0] = k.numpy()[:, 1]
        return k, v


@found_in("determinism")
class NonDeterministic(Bad):
    """Sums in another order every time."""

    def __init__(self, info: DeviceInfo, config: DeviceConfig) -> None:
        super().__init__(info, config)
        self._rng = np.random.default_rng(0)

    def rms_norm(self, x: Buffer, weight: Buffer, *, eps: float, out: Buffer | None = None) -> Buffer:
        result = super().rms_norm(x, weight, eps=eps, out=out)
        numbers = result.numpy()
        numbers *= 1 + self._rng.standard_normal(numbers.shape).astype(np.float32) * np.float32(1e-6)
        return result


# -- end to end, speed floor ---------------------------------------------------------------------------------------


@found_in("end_to_end")
class StalePlan(Bad):
    """Keeps what it worked out for one step for every later one of as many requests."""

    manifest = manifest_of(DeclaredOverride("decoder_self_attention", "bad.decode"))

    def __init__(self, info: DeviceInfo, config: DeviceConfig) -> None:
        super().__init__(info, config)
        self._plans: dict[tuple[int, int], Any] = {}

    def plan_attention(self, batch: AttentionBatch) -> Any:
        return self._plans.setdefault((batch.num_requests, int(batch.context_lens[0])), batch.context_lens)

    @overrides("decoder_self_attention", impl="bad.decode")
    def _decode(
        self, q: Buffer, kv: Buffer, batch: AttentionBatch, *, scale: float, out: Buffer | None = None
    ) -> Buffer:
        known = replace(batch, context_lens=batch.plan) if batch.plan is not None else batch
        return Device.decoder_self_attention(self, q, kv, known, scale=scale, out=out)


@found_in("speed_floor")
class SlowOverride(Bad):
    """Fused, and slower than what it replaces."""

    manifest = manifest_of(DeclaredOverride("gated_activation", "bad.gated"))

    @overrides("gated_activation", impl="bad.gated")
    def _gated(self, x: Buffer, *, kind: str, out: Buffer | None = None) -> Buffer:
        for _ in range(4):
            result = Device.gated_activation(self, x, kind=kind, out=out)
        return result
