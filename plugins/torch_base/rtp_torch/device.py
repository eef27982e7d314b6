"""The base of devices that torch serves: memory behind handles, primitives over tensors, the library's products.

A vendor derives from it with a manifest and an `Accelerator`, and overrides the composites that it does better.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Self

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from rtp_core.plugin import (
    Buffer,
    Device,
    DeviceConfig,
    DeviceError,
    DeviceInfo,
    DType,
    Event,
    KVLayout,
    MemorySpace,
    QBuffer,
    QuantScheme,
    Region,
    RtpError,
    Shape,
    dtypes,
)
from rtp_torch import failures, matmul, quantized, rehearsal, scaled, tensor_ops
from rtp_torch.accelerator import Accelerator
from rtp_torch.communicator import TorchCommunicator
from rtp_torch.host_traffic import HostTraffic
from rtp_torch.in_flight import DeviceEvent, InFlight
from rtp_torch.memory import DeviceMemory
from rtp_torch.quantized import StoredWeight
from rtp_torch.recording import Recorder
from rtp_torch.scratch import Scratch
from rtp_torch.staging import Staging, onto


class TorchDevice(Device):
    """All primitives. Registers nothing: a plugin has the manifest, the probe, and the accelerator."""

    alignment = 256
    kv_layout = KVLayout(block_size=32, alignment=256)

    def __init__(
        self, info: DeviceInfo, config: DeviceConfig, accelerator: Accelerator, *, group: ProcessGroup | None = None
    ) -> None:
        """`group`: the processes that run one model together; None: this one alone."""
        self._accelerator = accelerator
        self.space = MemorySpace(info.id, host_addressable=False)
        self.default_dtype = accelerator.default_dtype
        super().__init__(info, config)
        self._in_flight, self._recorder, self._traffic = InFlight(), Recorder(accelerator), HostTraffic()
        try:
            self._copies, self._staging = accelerator.new_stream(), Staging(accelerator)
        except RuntimeError as error:  # the arena may have left too little even for these
            explained = self.failure(error)
            if explained is None:
                raise
            raise explained from error
        self._group = group
        self._join()

    # -- memory --------------------------------------------------------------------------------------------------

    def memory_info(self) -> tuple[int, int]:
        return self._accelerator.memory_info()

    def memory_beside(self) -> Mapping[str, int]:
        return self._accelerator.memory_beside()

    def reserve(self, nbytes: int) -> Region:
        content = self._accelerator.reserve(-(-nbytes // self.alignment) * self.alignment)
        self._memory = DeviceMemory(content, content.data_ptr())
        return Region(self.space, self._memory.address, nbytes, owner=content)

    def alloc(self, shape: Shape, dtype: DType, tag: str) -> Buffer:
        if self._in_flight:
            self._in_flight.settle()
        return super().alloc(shape, dtype, tag)

    def over(self, region: Region) -> Self:
        twin = super().over(region)
        twin._join()  # what collectives need is the twin's own memory
        return twin

    def _join(self) -> None:
        if self._group is not None:
            self.communicator = TorchCommunicator(self._group, self.alloc, self._see)

    def rehearsal(self) -> Device:
        """A twin whose ops run as they are over memory that is not there: each asks for what it would ask for."""
        twin = self.over(rehearsal.region(self.space))
        twin._memory = rehearsal.memory()
        if isinstance(twin.communicator, TorchCommunicator):
            twin.communicator = twin.communicator.rehearsing(twin.alloc)
        return twin.bound(rehearsal.SERVICES)

    def failure(self, error: Exception) -> RtpError | None:
        end = failures.lost(error, self)
        if end is None:
            return failures.no_memory(error, self, self._accelerator)
        self._memory.lose(end)
        self._in_flight.clear()  # nobody can ask any more whether they have passed
        return end

    def close(self) -> None:
        if self._memory.is_lost:
            return  # its work will never be done, and what it holds goes with the process
        self.synchronize()
        self._accelerator.release()

    def _see(self, x: Buffer) -> Tensor:
        if x.space is not self.space:
            raise DeviceError(f"{x!r} is not in the memory of {self.info.id}", hint="device.copy brings it there")
        return self._memory.numbers(x)

    def _scratch(self, tag: str) -> Scratch:
        return Scratch(self.alloc, self._see, tag)

    def _launch(self, kernel: Callable[..., None], *, writes: Collection[str], **operands: Any) -> None:
        """kernel(**operands), a kernel that is not torch's; `writes` names the tensors that it changes."""
        self._accelerator.launch(kernel, operands, writes)

    # -- movement ------------------------------------------------------------------------------------------------

    def copy(self, dst: Buffer, src: Buffer) -> None:
        self._move(dst, src, non_blocking=False)

    def non_blocking_copy(self, dst: Buffer, src: Buffer) -> Event:
        self._memory.check()
        self._recorder.refuse_host()
        ready, passed = self._accelerator.new_event(), self._accelerator.new_event()
        ready.record(self._accelerator.current_stream())
        self._copies.wait_event(ready)  # both ends may be in use by what was asked for before
        with self._accelerator.on(self._copies):
            self._move(dst, src, non_blocking=True)
            passed.record(self._copies)
        self._in_flight.hold(passed, (dst, src))
        return DeviceEvent(self._accelerator, passed, self._in_flight, self._traffic)

    def _move(self, dst: Buffer, src: Buffer, *, non_blocking: bool) -> None:
        if dst.shape != src.shape or dst.dtype is not src.dtype:
            raise DeviceError(f"cannot copy {src!r} to {dst!r}", why="shapes and dtypes must be equal")
        to_host, from_host = dst.space.host_addressable, src.space.host_addressable
        if to_host or from_host:
            self._recorder.refuse_host()
        if not src.size:
            return
        if to_host and from_host:
            super().copy(dst, src)
        elif from_host:
            self._traffic.from_host += 1
            self._staging.bring(self._memory.bits(dst), src.numpy())
        elif to_host:
            self._traffic.to_host += 1
            onto(dst.numpy(), self._memory.bits(src), non_blocking=non_blocking)
        else:
            self._memory.bits(dst).copy_(self._memory.bits(src))

    def event(self) -> Event:
        self._memory.check()
        event = self._accelerator.new_event()
        event.record(self._accelerator.current_stream())
        return DeviceEvent(self._accelerator, event, self._in_flight, self._traffic)

    def synchronize(self) -> None:
        self._memory.check()
        self._recorder.refuse_host()
        self._traffic.waits += 1
        self._accelerator.synchronize()
        self._in_flight.clear()

    def capture(self, step: Callable[[], None]) -> Callable[[], None] | None:
        self._memory.check()
        if self._in_flight:
            self.synchronize()  # no event can be asked while a graph is recorded
        return self._recorder.capture(step)

    def capture_size(self, num_requests: int) -> int:
        """1, 2, 4 and multiples of 8, as vLLM has them: each graph takes two runs, and memory of the driver's."""
        return 1 << (num_requests - 1).bit_length() if num_requests <= 8 else -(-num_requests // 8) * 8

    # -- element-wise --------------------------------------------------------------------------------------------

    def add(self, a: Buffer, b: Buffer, *, out: Buffer | None = None) -> Buffer:
        return self._elementwise(torch.add, a, b, out, "add")

    def mul(self, a: Buffer, b: Buffer, *, out: Buffer | None = None) -> Buffer:
        return self._elementwise(torch.mul, a, b, out, "mul")

    def _elementwise(self, op: Callable[..., Tensor], a: Buffer, b: Buffer, out: Buffer | None, tag: str) -> Buffer:
        out = self.alloc(a.shape, a.dtype, tag) if out is None else out
        tensor_ops.elementwise(op, self._see(a), self._see(b), self._see(out), self._scratch(tag))
        return out

    def activation(self, x: Buffer, *, kind: str, out: Buffer | None = None) -> Buffer:
        if kind not in tensor_ops.ACTIVATIONS:
            raise DeviceError(f"unknown activation {kind!r}", why=f"expected {', '.join(tensor_ops.ACTIVATIONS)}")
        out = self.alloc(x.shape, x.dtype, "activation") if out is None else out
        tensor_ops.activation(self._see(x), kind, self._see(out), self._scratch("activation"))
        return out

    def cast(self, x: Buffer, dtype: DType, *, out: Buffer | None = None) -> Buffer:
        out = self.alloc(x.shape, dtype, "cast") if out is None else out
        self._see(out).copy_(self._see(x))
        return out

    # -- rows ----------------------------------------------------------------------------------------------------

    def rms_norm(self, x: Buffer, weight: Buffer, *, eps: float, out: Buffer | None = None) -> Buffer:
        out = self.alloc(x.shape, x.dtype, "rms_norm") if out is None else out
        tensor_ops.rms_norm(self._see(x), self._see(weight), eps, self._see(out), self._scratch("rms_norm"))
        return out

    def layer_norm(self, x: Buffer, weight: Buffer, bias: Buffer, *, eps: float, out: Buffer | None = None) -> Buffer:
        out = self.alloc(x.shape, x.dtype, "layer_norm") if out is None else out
        affine = self._see(weight), self._see(bias)
        tensor_ops.layer_norm(self._see(x), *affine, eps, self._see(out), self._scratch("layer_norm"))
        return out

    def softmax(
        self,
        x: Buffer,
        *,
        scale: float = 1.0,
        softcap: float | None = None,
        mask: Buffer | None = None,
        out: Buffer | None = None,
    ) -> Buffer:
        out = self.alloc(x.shape, x.dtype, "softmax") if out is None else out
        seen = None if mask is None else self._see(mask)
        tensor_ops.softmax(self._see(x), scale, softcap, seen, self._see(out), self._scratch("softmax"))
        return out

    def rope(self, x: Buffer, cos: Buffer, sin: Buffer, positions: Buffer, *, out: Buffer | None = None) -> Buffer:
        out = self.alloc(x.shape, x.dtype, "rope") if out is None else out
        angles = self._see(cos), self._see(sin), self._see(positions)
        tensor_ops.rope(self._see(x), *angles, self._see(out), self._scratch("rope"))
        return out

    def top_k(self, x: Buffer, k: int) -> tuple[Buffer, Buffer]:
        values = self.alloc((x.shape[0], k), x.dtype, "top_k")
        indices = self.alloc((x.shape[0], k), dtypes.int32, "top_k")
        tensor_ops.top_k(self._see(x), self._see(values), self._see(indices), self._scratch("top_k"))
        return values, indices

    def gather_rows(
        self, table: Buffer, ids: Buffer, *, dtype: DType | None = None, out: Buffer | None = None
    ) -> Buffer:
        out = self.alloc((ids.shape[0], table.shape[1]), dtype or table.dtype, "gather_rows") if out is None else out
        scratch, rows, to = self._scratch("gather_rows"), self._see(ids), self._see(out)
        if isinstance(table, QBuffer):
            self._stored(table).chosen(rows, scratch).dequantize(to, scratch)
        else:
            tensor_ops.gather_rows(self._see(table), rows, to, scratch)
        return out

    # -- matrix products and quantized weights -------------------------------------------------------------------

    def gemm(
        self, a: Buffer, b: Buffer, *, bias: Buffer | None = None, trans_b: bool = False, out: Buffer | None = None
    ) -> Buffer:
        shape = (*a.shape[:-1], b.shape[-2 if trans_b else -1])
        out = self.alloc(shape, a.dtype, "gemm") if out is None else out
        x, added, to = self._see(a), None if bias is None else self._see(bias), self._see(out)
        scratch = self._scratch("gemm")
        if isinstance(b, QBuffer):
            if not trans_b:
                raise DeviceError(f"cannot multiply {a!r} by {b!r}", why="a quantized weight is [N, K], with trans_b")
            self._multiply_quantized(x, self._stored(b), added, to, scratch)
        elif trans_b and len(b.shape) == 2 and b.dtype is not a.dtype:
            matmul.gemm_in_blocks(x, b.shape[0], torch.float32, matmul.widening(self._see(b)), added, to, scratch)
        else:
            weight = self._see(b)
            matmul.gemm(x, weight.mT if trans_b else weight, added, to, scratch)
        return out

    def _multiply_quantized(
        self, x: Tensor, weight: StoredWeight, bias: Tensor | None, out: Tensor, scratch: Scratch
    ) -> None:
        """By the units for codes of 8 bits, where the hardware has such and the sizes suit them; else in floats."""
        codes = weight.row_codes()
        if codes is not None and scaled.fits(x, codes) and self._accelerator.multiplies(codes.dtype):
            scaled.gemm(x, codes, weight.parts["scales"], bias, out, scratch)
        else:
            matmul.gemm_in_blocks(x, weight.num_rows, x.dtype, quantized.unpacking(weight), bias, out, scratch)

    def quantize(self, x: Buffer, scheme: QuantScheme) -> QBuffer:
        parts = quantized.quantize(self._see(x), scheme)
        forms = scheme.parts(x.shape[0], x.shape[1])
        buffers = [self.alloc(*forms[name], "quantize") for name in scheme.part_names]
        for name, buffer in zip(scheme.part_names, buffers, strict=True):
            self._see(buffer).copy_(parts[name])
        return QBuffer.of_parts(scheme, (x.shape[0], x.shape[1]), buffers)

    def dequantize(self, x: QBuffer, *, dtype: DType, out: Buffer | None = None) -> Buffer:
        out = self.alloc(x.shape, dtype, "dequantize") if out is None else out
        self._stored(x).dequantize(self._see(out), self._scratch("dequantize"))
        return out

    def _stored(self, x: QBuffer) -> StoredWeight:
        """A weight in any layout that `prepare_weight` returns."""
        if x.layout != "plain":
            raise DeviceError(f"{self.kind} has no layout {x.layout!r}", why="it was prepared for another device")
        parts = {name: self._see(part) for name, part in x.named_parts.items()}
        return StoredWeight(x.scheme, {**parts, "payload": parts["payload"].view(torch.uint8)})

    # -- blocked KV ----------------------------------------------------------------------------------------------

    def kv_write(self, kv: Buffer, k: Buffer, v: Buffer, slots: Buffer) -> None:
        rows = self._see(k), self._see(v), self._see(slots)
        tensor_ops.kv_write(self._see(kv), *rows, self._scratch("kv_write"))

    def kv_gather(self, kv: Buffer, block_table: Buffer, num_tokens: int) -> tuple[Buffer, Buffer]:
        shape = (kv.shape[2], num_tokens, kv.shape[4])
        k, v = self.alloc(shape, kv.dtype, "kv_gather"), self.alloc(shape, kv.dtype, "kv_gather")
        outs = self._see(k), self._see(v)
        tensor_ops.kv_gather(self._see(kv), self._see(block_table), *outs, self._scratch("kv_gather"))
        return k, v
