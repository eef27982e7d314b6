"""What core is made of, function by function, so that a plugin that changes any of it is seen."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from types import CodeType, ModuleType
from typing import Any


def core_snapshot() -> dict[str, CodeType]:
    """The code of every function and method of the modules of core that are loaded, by module and name."""
    loaded = [m for name, m in sorted(sys.modules.items()) if name.split(".")[0] == "rtp_core" and m is not None]
    return {name: code for module in loaded for name, code in _functions(module)}


def changes(before: Mapping[str, CodeType], after: Mapping[str, CodeType]) -> list[str]:
    """The names whose code is gone or another one."""
    return sorted(name for name, code in before.items() if after.get(name) != code)


def _functions(module: ModuleType) -> Iterator[tuple[str, CodeType]]:
    for name, value in list(vars(module).items()):
        members = vars(value).items() if isinstance(value, type) and value.__module__ == module.__name__ else ()
        for path, member in ((name, value), *((f"{name}.{inner}", m) for inner, m in members)):
            code = _code(member)
            if code is not None:
                yield f"{module.__name__}:{path}", code


def _code(member: Any) -> CodeType | None:
    function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
    code = getattr(function, "__code__", None)
    return code if isinstance(code, CodeType) else None
