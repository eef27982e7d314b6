"""One opened native device: its handle, addresses as pointers, and statuses as errors."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import Any, NoReturn
from weakref import WeakSet

from rtp_core.plugin import (
    ACTIVATIONS,
    Buffer,
    ConfigError,
    Device,
    DeviceError,
    DType,
    OutOfMemoryError,
    dtypes,
)
from rtp_cpu._native import ffi, lib
from rtp_cpu.isa import ISAS
from rtp_cpu.manifest import MANIFEST
from rtp_cpu.scratch import Scratch

DTYPES: dict[DType, int] = {
    dtypes.float32: lib.RTP_CPU_F32,
    dtypes.float16: lib.RTP_CPU_F16,
    dtypes.bfloat16: lib.RTP_CPU_BF16,
}
SCHEMES: dict[str, int] = {name: getattr(lib, f"RTP_CPU_{name.upper()}") for name in MANIFEST.schemes}
KINDS: dict[str, int] = {kind: getattr(lib, f"RTP_CPU_{kind.upper()}") for kind in ACTIVATIONS}

NULL = ffi.NULL
_OOM = lib.RTP_CPU_OUT_OF_MEMORY
_cast, _POINTER = ffi.cast, ffi.typeof("void *")
_NO_MEMORY = 64  # an address that is nobody's
KV_VIEWS = 4096  # kept at most: one per layer of every model that is loaded


class Native:
    """Owns the thread pool and its work space, which is of the device's arena. `threads` counts the caller's.

    One that rehearses has no threads: its calls check operands and take their work space, and compute nothing.
    """

    def __init__(self, device: Device, isa: str, threads: int, *, rehearses: bool = False) -> None:
        if threads < 1:
            raise ConfigError(f"threads is {threads}", why="expected at least 1")
        self.isa, self.threads, self.rehearses = isa, threads, rehearses
        self._scratch = Scratch(device)
        self._context = ffi.new_handle(self._scratch)
        give = lib.rtp_cpu_give_scratch
        handle = lib.rtp_cpu_device_create(ISAS[isa], threads, rehearses, give, self._context)
        if handle == NULL:
            raise DeviceError(f"cannot start {threads} threads with {isa} kernels", hint="ask for fewer with --threads")
        self.handle: Any = ffi.gc(handle, lib.rtp_cpu_device_destroy)
        self._tapes: WeakSet[Any] = WeakSet()
        self._kv: dict[Any, Any] = {}
        self._spans: tuple[tuple[int, ...], Any, Any] = (), NULL, NULL

    def close(self) -> None:
        """Stop the threads and give the work space back. Twice is once; no op may follow."""
        ffi.release(self.handle)
        self._scratch.free()

    def capture(self, step: Callable[[], None]) -> Callable[[], None] | None:
        """Run `step` and keep its calls of kernels. None where it did anything else to the device's memory."""
        if status := lib.rtp_cpu_record(self.handle):
            raise DeviceError("cannot record a step", why="one is being recorded" if status != _OOM else "no memory")
        try:
            step()
        finally:
            tape = ffi.gc(lib.rtp_cpu_recorded(self.handle), lib.rtp_cpu_tape_destroy)
        if tape == NULL:
            return None
        self._tapes.add(tape)
        views = tuple(self._kv.values())  # which its calls point to
        handle, run = self.handle, lib.rtp_cpu_replay

        def replay(_alive: object = views) -> None:
            if status := run(handle, tape):
                self.fail(status, ffi.string(lib.rtp_cpu_tape_failed(tape)).decode())

        return replay

    @property
    def tape_bytes(self) -> int:
        """Of the heap, for all recorded steps that can still be replayed."""
        return sum(map(lib.rtp_cpu_tape_bytes, self._tapes))

    def spoil_recording(self) -> None:
        """Something happens that no kernel does: a step that is being recorded cannot be replayed."""
        lib.rtp_cpu_spoil_recording(self.handle)

    def fail(self, status: int, op: str, *operands: Buffer | None) -> NoReturn:
        """Raise what a status other than 0 means."""
        where = f"{op} of {', '.join(repr(x) for x in operands if x is not None)}" if operands else op
        if status == _OOM:
            raise self._scratch.take_error() or OutOfMemoryError("the work space exceeds any memory", where=where)
        if status == lib.RTP_CPU_OUT_OF_RANGE:
            raise DeviceError("an id, position, slot or block lies outside its table", where=where)
        raise mismatch(op, *operands)

    def spans(self, lengths: tuple[int, ...]) -> tuple[Any, Any]:
        """Lengths of requests and where they begin, as the kernels see them; made once for all layers of a step."""
        if self._spans[0] is not lengths:
            starts = list(accumulate(lengths, initial=0))
            self._spans = lengths, ffi.new("int32_t[]", lengths), ffi.new("int32_t[]", starts)
        return self._spans[1:]

    def kv(self, kv: Buffer) -> Any:
        """A cache [N, 2, K, B, D] as the kernels see it; made once for each layer."""
        key = (kv.address, kv.shape, kv.strides, kv.dtype)
        view = self._kv.get(key)
        if view is None:
            if len(kv.shape) != 5 or kv.shape[1] != 2 or kv.strides[4] != 1 or kv.dtype not in DTYPES:
                raise DeviceError(
                    f"cannot use {kv!r} as a KV cache", why="expected floats [N, 2, K, B, D], D contiguous"
                )
            blocks, _, heads, block_size, head_dim = kv.shape
            sizes = (blocks, heads, block_size, head_dim)
            view = ffi.new("rtp_cpu_kv *", (pointer(kv), DTYPES[kv.dtype], *sizes, *kv.strides[:4]))
            if len(self._kv) >= KV_VIEWS:
                self._kv.clear()
            self._kv[key] = view
        return view


def pointer(x: Buffer) -> Any:
    """Never NULL, which would mean that there is no such operand: a buffer without memory is one, in a rehearsal."""
    return _cast(_POINTER, x.address or _NO_MEMORY)


def int64s(values: tuple[int, ...] | list[int]) -> Any:
    return ffi.new("int64_t[]", values)


def mismatch(op: str, *operands: Buffer | None) -> DeviceError:
    shapes = ", ".join(repr(x) for x in operands if x is not None)
    return DeviceError(f"{op} cannot take these operands", why=f"got {shapes}")
