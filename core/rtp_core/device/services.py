"""The services of a device that are not ops: memory, copies, events, weights, collectives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtp_core.device.attention_batch import AttentionBatch
from rtp_core.device.host_memory import host_memory_info
from rtp_core.device.kv_layout import KVLayout
from rtp_core.dtypes import DType
from rtp_core.errors import DeviceError, RtpError
from rtp_core.memory.arena import Arena
from rtp_core.memory.buffer import Buffer, Shape
from rtp_core.memory.qbuffer import QBuffer
from rtp_core.memory.space import HOST, MemorySpace, Region, reserve_host


class Event:
    """A point in a device's work. This one, of a device that works synchronously, has always passed."""

    def wait(self) -> None:
        """Make later work of the device wait for this point."""

    def synchronize(self) -> None:
        """Make the host wait for this point."""


class Communicator:
    """Collectives among the processes of one model. This one is alone: what it has is the result."""

    rank = 0
    world_size = 1

    def broadcast(self, x: Buffer, root: int = 0) -> Buffer:
        return x

    def all_reduce(self, x: Buffer) -> Buffer:
        """Sum over ranks, in place."""
        return x

    def all_gather(self, x: Buffer) -> Buffer:
        """x: [T, n] -> [T, n * world_size]."""
        return x


class Services:
    """Memory and order. Defaults serve a synchronous device in host memory; others override what differs."""

    space: MemorySpace = HOST
    alignment: int = 64  # bytes, of every allocation
    default_dtype: str = "float32"  # of activations under dtype "auto"
    kv_layout: KVLayout = KVLayout()

    arena: Arena
    communicator: Communicator

    # -- memory --------------------------------------------------------------------------------------------------

    def memory_info(self) -> tuple[int, int]:
        """Bytes of this device's memory: (total, free). The default reads the host's."""
        return host_memory_info()

    def memory_beside(self) -> Mapping[str, int]:
        """Bytes of this device's memory that what lies below it holds beside the arena, by what holds them.

        Reports show them; nothing is planned with them. Asked between steps and once memory has run out. What its
        libraries do not tell is left out, never estimated: `memory_info` has it. The default knows of nothing.
        """
        return {}

    def reserve(self, nbytes: int) -> Region:
        """Reserve the region that the arena manages. Raises OutOfMemoryError."""
        return reserve_host(nbytes)

    def alloc(self, shape: Shape, dtype: DType, tag: str) -> Buffer:
        """A buffer from the arena, contents undefined. Raises OutOfMemoryError, carrying the table."""
        size = dtype.itemsize
        for extent in shape:
            size *= extent
        return Buffer(self.arena.allocate(size, tag), dtype, shape)

    # -- movement ------------------------------------------------------------------------------------------------

    def copy(self, dst: Buffer, src: Buffer) -> None:
        """dst[...] = src: same shape and dtype, any strides, any memory that this device or the host can address."""
        if dst.shape != src.shape or dst.dtype is not src.dtype:
            raise DeviceError(f"cannot copy {src!r} to {dst!r}", why="shapes and dtypes must be equal")
        np.copyto(dst.numpy(), src.numpy(), casting="no")

    def non_blocking_copy(self, dst: Buffer, src: Buffer) -> Event:
        """Start `copy` on a stream of its own. `dst` is ready once the event has passed."""
        self.copy(dst, src)
        return self.event()

    def event(self) -> Event:
        """Mark the device's work up to here."""
        return Event()

    def synchronize(self) -> None:
        """Wait for all of the device's work."""

    def upload(self, array: NDArray[Any], tag: str) -> Buffer:
        """A buffer of this device with the contents of a host array."""
        source = Buffer.borrow(np.asarray(array, order="C"), tag)
        result = self.alloc(source.shape, source.dtype, tag)
        self.copy(result, source)
        return result

    def download(self, x: Buffer) -> NDArray[Any]:
        """A host array with the contents of a buffer. It owns its memory."""
        array: NDArray[Any] = np.empty(x.shape, x.dtype.numpy)
        self.copy(Buffer.borrow(array), x)
        self.synchronize()
        return array

    # -- weights, capture, attention plan ------------------------------------------------------------------------

    def prepare_weight(self, weight: Buffer, tag: str) -> Buffer:
        """Bring a weight [N, K] from host memory into this device's, in the layout its kernels like best.

        A Buffer stays a Buffer and a QBuffer a QBuffer, with `layout` named; this device's gemm,
        gather_rows and dequantize accept every layout this returns. The default keeps the layout.
        """
        if not isinstance(weight, QBuffer):
            return self._bring(weight, tag)
        parts = {name: self._bring(part, tag) for name, part in weight.named_parts.items()}
        return QBuffer(weight.scheme, (weight.shape[0], weight.shape[1]), **parts, layout=weight.layout)

    def _bring(self, x: Buffer, tag: str) -> Buffer:
        result = self.alloc(x.shape, x.dtype, tag)
        self.copy(result, x)
        return result

    def plan_attention(self, batch: AttentionBatch) -> Any:
        """Whatever this device's attention wants to work out once per step; handed back as `batch.plan`.

        Before a recorded step is replayed it is asked again, with the recorded batch: the same buffers, other contents,
        and as `batch.plan` what it returned before the recording. All of that plan's buffers it then writes anew; what
        it returns is not looked at.
        """
        return None

    def capture(self, step: Callable[[], None]) -> Callable[[], None] | None:
        """Run `step`, recording what it does to the device's memory; return what does the same again.

        A device may run it beforehand, for what a first run sets up; the last run is the recorded one, and what it
        allocates is where the replay writes. Its work need not be done yet: core replays before it reads.

        Every replay finds the buffers of the recording at their addresses, with shapes as they were: it reads what they
        hold by then, token ids, positions, slots, context lengths and block tables among them, and writes where
        `step` wrote. Core keeps that memory, and asks `plan_attention` before every replay. Work that `step` leaves on
        the host is not repeated, so a step in which an op reads contents there, or copies from or to the host, cannot
        be recorded. Kernels' own memory may move between replays only if a replay asks for it anew.

        None where this step cannot be recorded, or none can: it then runs op by op. A device that records at all
        records an empty step. What `step` raises passes through, and the device is as if it had not been asked.
        The replay raises as the ops do; one that failed can run again. Steps of one device are not recorded at once,
        and a replay may be kept and called as long as the device is open. The default records nothing.
        """
        return None

    def capture_size(self, num_requests: int) -> int:
        """How many requests the recorded decode step has that serves `num_requests` of them: as many, or more.

        Where recordings are dear, few sizes may serve all. Core cuts them to the most requests that run at once, and
        fills a step up with rows that any device can run: token 0 at position 0, in a context of its own, whose k and v
        go to one slot, the same for all such rows, of a block that no request has. Nobody looks at their logits.

        A rehearsal answers as its device does. The default records every number for itself.
        """
        return num_requests

    def failure(self, error: Exception) -> RtpError | None:
        """What an error of the libraries below this device means, once a step has failed with it.

        LibraryMemoryError: they found no memory beside the arena; the device works on. DeviceFailedError: the device is
        lost, and core asks nothing of it any more but to close, which must not wait for work that will never be done.
        None: neither. The default knows of no libraries.
        """
        return None

    def close(self) -> None:
        """Give back what the device holds outside its arena: threads, handles, contexts."""
