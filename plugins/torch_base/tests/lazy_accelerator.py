"""An accelerator over torch's CPU that works as late as it may, and knows what was ordered.

Its memory is tensors the host cannot look into. An op on them is put into the queue of the current stream and done
when the host waits for it, or for something that waits for it: what reads too early reads what was there before. And
every access is checked when it is asked for: two that touch the same bytes from two streams, one of them writing, with
nothing between them that orders them, are an OrderError, whether or not it would have gone well this time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from weakref import WeakSet, finalize

import numpy as np
import torch
from torch import Tensor

from rtp_core.plugin import host_memory_info

Work = Callable[[], object]
Clock = dict["LazyStream", int]  # per stream, how many of its acts are over before something


class OrderError(AssertionError):
    """Two accesses of one range of memory that nothing orders."""


class Fault:
    """What goes wrong, and when: nothing, unless a test plants something else."""

    def at_op(self) -> None:
        """An op is asked for."""

    def at_wait(self) -> None:
        """The host is about to wait."""


@dataclass(frozen=True, slots=True)
class Access:
    """Bytes from `start` to `end` by the act number `position` of a stream."""

    start: int
    end: int
    is_write: bool
    position: int
    op: str

    def conflicts(self, other: Access) -> bool:
        return (self.is_write or other.is_write) and self.start < other.end and other.start < self.end


@dataclass(slots=True, eq=False)
class LazyStream:
    """Acts in their order: ops, and waits for other streams."""

    accelerator: LazyAccelerator
    queue: deque[Work] = field(default_factory=deque)
    issued: int = 0
    done: int = 0
    before: Clock = field(default_factory=dict)  # what its next act comes after
    accesses: list[Access] = field(default_factory=list)  # that the host has not waited for

    def wait_event(self, event: LazyEvent) -> None:
        if event.stream is None:
            return
        of, position = event.stream, event.position
        self.issue(lambda: of.run(position))
        merge(self.before, event.after)

    def issue(self, work: Work) -> None:
        self.queue.append(work)
        self.issued += 1

    def run(self, position: int) -> None:
        """Do everything up to an act."""
        while self.done < position:
            self.done += 1  # before it is done: streams that wait for each other in turn come to an end
            self.queue.popleft()()

    def after(self) -> Clock:
        """What is over once everything that this stream has been given is."""
        return {**self.before, self: self.issued}


def merge(clock: Clock, other: Clock) -> None:
    for stream, position in other.items():
        clock[stream] = max(clock.get(stream, 0), position)


class LazyEvent:
    """A point in a stream."""

    def __init__(self, accelerator: LazyAccelerator) -> None:
        self._accelerator = accelerator
        self.stream: LazyStream | None = None
        self.position, self.after = 0, Clock()

    def record(self, stream: LazyStream) -> None:
        self.stream = stream
        self.position, self.after = self.stream.issued, self.stream.after()

    def query(self) -> bool:
        self._accelerator.fault.at_op()
        assert self._accelerator.recorded is None, "an event is asked while a graph is recorded"
        return self.stream is None or self.stream.done >= self.position

    def synchronize(self) -> None:
        self._accelerator.fault.at_wait()
        if self.stream is not None:
            self.stream.run(self.position)
            self._accelerator.host_knows(self.after)


class Cache:
    """What ops have made beside the arena, as torch counts it: what nobody holds any more it keeps for later."""

    def __init__(self) -> None:
        self.held = self.reserved = self.peak = 0

    def count(self, x: Tensor) -> None:
        self._hold(x.nbytes)
        finalize(x, self._hold, -x.nbytes)

    def release(self) -> None:
        self.reserved = self.held

    def _hold(self, nbytes: int) -> None:
        self.held += nbytes
        self.reserved = max(self.reserved, self.held)
        self.peak = max(self.peak, self.reserved)


@dataclass(slots=True, eq=False, weakref_slot=True)
class Graph:
    """A recorded step: what it does, and the tensors that it has made for itself."""

    acts: list[tuple[Work, Sequence[tuple[Tensor, bool]], str]] = field(default_factory=list)
    made: list[Tensor] = field(default_factory=list)


class LazyAccelerator:
    default_dtype = "float32"
    processors, is_narrow = 4, False

    def __init__(self) -> None:
        self.cache = Cache()
        self.graphs: WeakSet[Graph] = WeakSet()
        self.streams: list[LazyStream] = []
        self.current = self.new_stream()
        self.known: Clock = {}  # what the host has waited for
        self.recorded: Graph | None = None
        self.fault = Fault()

    # -- the protocol --------------------------------------------------------------------------------------------

    def multiplies(self, codes: torch.dtype) -> bool:
        return True

    def memory_info(self) -> tuple[int, int]:
        return host_memory_info()

    def reserve(self, nbytes: int) -> Tensor:
        return LazyTensor(torch.full((nbytes,), 0xFF, dtype=torch.uint8), self)

    def memory_beside(self) -> dict[str, int]:
        graphs = sum(x.nbytes for graph in self.graphs for x in graph.made)
        return {"results": self.cache.reserved - graphs, "graphs": graphs}

    def peak_beside(self) -> int:
        return self.cache.peak

    def pinned(self, nbytes: int) -> Tensor:
        return torch.full((nbytes,), 0xFF, dtype=torch.uint8)

    def current_stream(self) -> LazyStream:
        return self.current

    def new_stream(self) -> LazyStream:
        self.streams.append(LazyStream(self))
        return self.streams[-1]

    @contextmanager
    def on(self, stream: LazyStream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    def new_event(self) -> LazyEvent:
        return LazyEvent(self)

    def synchronize(self) -> None:
        assert self.recorded is None, "the host waits while a graph is recorded"
        self.fault.at_wait()
        for stream in self.streams:
            stream.run(stream.issued)
            self.host_knows(stream.after())

    def launch(self, kernel: Callable[..., None], operands: Mapping[str, Any], writes: Collection[str]) -> None:
        """A kernel of Triton's, by its interpreter."""
        touched = [(_content(x), name in writes) for name, value in operands.items() for x in _tensors([value])]
        spans: dict[int, int] = {}
        for x, _ in touched:
            spans[x.data_ptr()] = max(spans.get(x.data_ptr(), 0), _span(x))
        inner = _map(lambda x: _alone(_content(x), spans[x.data_ptr()]), dict(operands))

        def work() -> None:
            with np.errstate(all="ignore"):  # it computes in NumPy, which warns of what a GPU does in silence
                kernel(**inner)

        self.issue(work, touched, kernel.__name__)

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        self.recorded = graph = Graph()
        self.graphs.add(graph)
        try:
            step()
        finally:
            self.recorded = None

        def replay() -> None:
            for work, accesses, op in graph.acts:
                self.issue(work, accesses, op)

        return replay

    def release(self) -> None:
        self.cache.release()

    def keep(self, made: Sequence[Tensor]) -> None:
        """Count what an op has made; what it has made for a graph lives as long as that."""
        for x in made:
            self.cache.count(x)
        if self.recorded is not None:
            self.recorded.made += made

    # -- what it checks ------------------------------------------------------------------------------------------

    def host_knows(self, clock: Clock) -> None:
        merge(self.known, clock)
        for stream in self.streams:
            over = self.known.get(stream, 0)
            stream.accesses = [access for access in stream.accesses if access.position > over]

    def issue(self, work: Work, touched: Sequence[tuple[Tensor, bool]], op: str) -> None:
        """Queue an op that touches these tensors (written: True) on the current stream."""
        self.fault.at_op()
        if self.recorded is not None:
            self.recorded.acts.append((work, touched, op))
            return
        stream = self.current
        merge(stream.before, self.known)
        stream.issue(work)
        accesses = [access for x, writes in touched if (access := _access(x, writes, stream.issued, op))]
        for other in self.streams:
            if other is not stream:
                _check(accesses, other.accesses, stream.before.get(other, 0))
        stream.accesses += accesses


def _access(x: Tensor, is_write: bool, position: int, op: str) -> Access | None:
    if not x.numel():
        return None
    return Access(x.data_ptr(), x.data_ptr() + _span(x), is_write, position, op)


def _span(x: Tensor) -> int:
    """Bytes from its first element to the end of its last."""
    steps = sum((extent - 1) * stride for extent, stride in zip(x.shape, x.stride(), strict=True))
    return (1 + steps) * x.element_size() if x.numel() else 0


def _check(accesses: list[Access], others: list[Access], ordered: int) -> None:
    for other in others:
        if other.position > ordered:
            for access in accesses:
                if access.conflicts(other):
                    raise OrderError(f"nothing orders {access} and {other}")


class LazyTensor(torch.Tensor):
    """Memory of the accelerator: `content` is what is there once the queues have run."""

    content: Tensor
    accelerator: LazyAccelerator

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor, accelerator: LazyAccelerator) -> LazyTensor:
        made = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, inner.stride(), inner.storage_offset(), dtype=inner.dtype, device=inner.device
        )
        made.content, made.accelerator = inner, accelerator
        return made

    def data_ptr(self) -> int:
        return self.content.data_ptr()

    def as_strided(self, *form: Any) -> LazyTensor:
        return LazyTensor(self.content.as_strided(*form), self.accelerator)  # the most frequent op, on a shorter way

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        form, tensors = _form(func), list(_tensors((*args, *(kwargs or {}).values())))
        accelerator = next(x.accelerator for x in tensors if isinstance(x, LazyTensor))
        inner_args, inner_kwargs = _map(_content, args), _map(_content, kwargs or {})
        if form.is_view:
            return _map(lambda x: cls(x, accelerator), func(*inner_args, **inner_kwargs))
        touched = [(_content(x), False) for x in tensors]
        if form.written:
            named = dict(zip(form.names, args, strict=False)) | (kwargs or {})
            results = tuple(named[name] for name in form.written)
            touched += [(_content(x), True) for x in results]
            accelerator.issue(lambda: func(*inner_args, **inner_kwargs), touched, str(func))
        else:
            made = _outlined(func, inner_args, inner_kwargs)
            accelerator.keep(made)
            touched += [(x, True) for x in made]
            accelerator.issue(lambda: _fill(made, func(*inner_args, **inner_kwargs)), touched, str(func))
            results = tuple(cls(x, accelerator) for x in made)
        if form.is_copy and not isinstance(args[0], LazyTensor) and not any(args[2:]):
            accelerator.synchronize()  # a copy to the host that is not said to be non-blocking
        return results[0] if form.num_results == 1 else results


@dataclass(frozen=True, slots=True)
class _Form:
    """What an op's schema says. `written`: the parameters that it writes, in the order in which it returns them."""

    names: tuple[str, ...]
    written: tuple[str, ...]
    num_results: int
    is_view: bool
    is_copy: bool


@cache
def _form(func: Any) -> _Form:
    arguments, returns = func._schema.arguments, func._schema.returns
    return _Form(
        tuple(a.name for a in arguments),
        tuple(a.name for a in arguments if a.alias_info is not None and a.alias_info.is_write),
        len(returns),
        any(r.alias_info is not None and not r.alias_info.is_write for r in returns),
        func is torch.ops.aten.copy_.default,
    )


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from _tensors(value)


def _map(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """The same with other tensors."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple | list):
        items = [_map(function, item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else items  # a tuple with names keeps them
    return {name: _map(function, item) for name, item in value.items()} if isinstance(value, dict) else value


def _content(x: Tensor) -> Tensor:
    return x.content if isinstance(x, LazyTensor) else x


def _alone(x: Tensor, nbytes: int) -> Tensor:
    """The same memory as a storage of `nbytes` from x on: Triton's interpreter copies whole ones, an arena."""
    start = x.storage_offset() * x.element_size()
    storage = x.untyped_storage()[start : start + nbytes]
    return torch.empty(0, dtype=x.dtype).set_(storage, 0, x.shape, x.stride())


def _outlined(func: Any, args: Any, kwargs: Any) -> tuple[Tensor, ...]:
    """New tensors of the shapes that an op would return; they hold nothing yet."""
    results = func(*_map(_on_meta, args), **_map(_on_meta, kwargs))
    results = results if isinstance(results, tuple | list) else (results,)
    return tuple(torch.full_like(x, 77, device="cpu") for x in results)


def _on_meta(x: Tensor) -> Tensor:
    return x.to("meta")


def _fill(targets: Sequence[Tensor], results: Any) -> None:
    for target, result in zip(targets, results if isinstance(results, tuple | list) else (results,), strict=True):
        target.copy_(result)
