"""Which ops the defaults call. Read from their own code: nobody keeps a table, and none goes stale."""

from __future__ import annotations

import dis
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from types import CodeType
from typing import Any

from rtp_core.device.device import OPS, Device

ASSEMBLY = "model_forward"  # its default is the model's own assembly, a function of (ops, weights, kv, batch)

Graph = Mapping[str, frozenset[str]]


def call_graph(assembly: Callable[..., Any] | None = None) -> Graph:
    """Each op with the ops that its default calls, through private helpers of Device too.

    `assembly` is what model_forward calls; where it is not known, that may be every op below it.
    """
    graph = {op: _calls(getattr(Device, op)) for op, spec in OPS.items() if not spec.is_primitive}
    below = (op for op, spec in OPS.items() if spec.level < OPS[ASSEMBLY].level)
    graph[ASSEMBLY] = frozenset(below) if assembly is None else _calls(assembly)
    return graph


def reachable(graph: Graph) -> Graph:
    """Each op of a graph with all that its default reaches, at any depth."""
    return {op: frozenset(_walk(graph, op)) for op in graph}


def _walk(graph: Graph, op: str) -> set[str]:
    found: set[str] = set()
    ahead = list(graph[op])
    while ahead:
        callee = ahead.pop()
        if callee not in found:
            found.add(callee)
            ahead += graph.get(callee, ())
    return found


def _calls(function: Callable[..., Any]) -> frozenset[str]:
    """Ops that a function takes from its first parameter, itself or in the private methods that it calls so."""
    found: set[str] = set()
    seen: set[str] = set()
    ahead = [function]
    while ahead:
        code = ahead.pop().__code__
        for name in _attributes(code, code.co_varnames[0]):
            helper = getattr(Device, name, None)
            if name in OPS:
                found.add(name)
            elif name.startswith("_") and name not in seen and hasattr(helper, "__code__"):
                seen.add(name)
                ahead.append(helper)  # type: ignore[arg-type]
    return frozenset(found)


@cache  # of what cannot change: reading all of the defaults anew would take most of the time of making a plan
def _attributes(code: CodeType, owner: str) -> tuple[str, ...]:
    """Names of the attributes that code reads from the variable `owner`, in functions nested in it too."""
    return tuple(_read(code, owner))


def _read(code: CodeType, owner: str) -> Iterator[str]:
    is_owner = False
    for instruction in dis.get_instructions(code):
        if is_owner and instruction.opname.startswith(("LOAD_ATTR", "LOAD_METHOD")):
            yield instruction.argval
        # Newer interpreters load, or store and load, two variables at once; the attribute is then the last one's.
        is_load = "LOAD_FAST" in instruction.opname or instruction.opname == "LOAD_DEREF"
        loaded = instruction.argval[-1] if isinstance(instruction.argval, tuple) else instruction.argval
        is_owner = is_load and loaded == owner
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _attributes(constant, owner)
