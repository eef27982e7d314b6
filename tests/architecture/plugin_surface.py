"""The published surface as data: all that a plugin can name or must define, with signatures.

    python tests/architecture/plugin_surface.py

writes plugin_api_MAJOR.MINOR.json beside this file. A snapshot that exists is a promise: it is never written again
(until its version is released, `--unreleased` may). A change of the surface raises PLUGIN_API first.
"""

from __future__ import annotations

import inspect
import json
import sys
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import rtp_core.plugin
from rtp_core.device.hooks import PluginHooks
from rtp_core.plugin import OPS, PLUGIN_API

FOLDER = Path(__file__).parent

Surface = dict[str, Any]


def snapshot(api: tuple[int, int] = PLUGIN_API) -> Path:
    """The file that promises the surface of an API version."""
    return FOLDER / f"plugin_api_{api[0]}.{api[1]}.json"


def surface() -> Surface:
    """Everything that a plugin is written against."""
    names = {name: _described(getattr(rtp_core.plugin, name)) for name in sorted(rtp_core.plugin.__all__)}
    names["OPS"] = {op: _op(op) for op in sorted(OPS)}
    hooks = {name: _signature(hook) for name, hook in vars(PluginHooks).items() if name.startswith("rtp_")}
    return {"api": list(PLUGIN_API), "names": names, "hooks": hooks}


def _op(op: str) -> Surface:
    spec = OPS[op]
    return {
        "level": spec.level,
        "signature": _text(spec.signature),
        "options": dict(spec.options),
        "features": sorted(spec.features),
        "since": list(spec.since),
    }


def _described(thing: Any) -> Any:
    if isinstance(thing, ModuleType):
        return {
            name: type(value).__name__ for name, value in sorted(vars(thing).items()) if _is_own(name, value, thing)
        }
    if inspect.isclass(thing) and thing.__module__.startswith("rtp_core"):
        return _class(thing)
    if inspect.isfunction(thing) or hasattr(thing, "__wrapped__"):
        return _signature(thing)
    if isinstance(thing, int | str) or (
        isinstance(thing, tuple) and all(isinstance(part, int | str) for part in thing)
    ):
        return repr(thing)
    return type(thing).__name__


def _is_own(name: str, value: Any, module: ModuleType) -> bool:
    return not name.startswith("_") and (
        getattr(value, "__module__", None) == module.__name__ or type(value).__module__ == module.__name__
    )


def _class(cls: type) -> Surface:
    found: Surface = {"bases": [base.__name__ for base in cls.__mro__[1:] if base is not object]}
    if is_dataclass(cls):
        found["fields"] = {field.name: _field(field) for field in fields(cls)}
    elif "__init__" in vars(cls):
        found["init"] = _signature(vars(cls)["__init__"])
    members: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.startswith("rtp_core"):
            attributes = {f"{name}: {annotation}" for name, annotation in vars(base).get("__annotations__", {}).items()}
            members |= {text.partition(":")[0]: text for text in attributes if not text.startswith("_")}
            members |= {name: _member(member) for name, member in vars(base).items() if _is_public(name, member)}
    found["members"] = {name: text for name, text in sorted(members.items()) if name not in found.get("fields", {})}
    return found


def _is_public(name: str, member: Any) -> bool:
    return name == "__getitem__" or (not name.startswith("_") and not inspect.ismemberdescriptor(member))


def _member(member: Any) -> str:
    if isinstance(member, property):
        return f"property -> {inspect.signature(member.fget).return_annotation}" if member.fget else "property"
    function = getattr(member, "__func__", member)
    return _signature(function) if inspect.isfunction(function) else f"attribute {type(member).__name__}"


def _field(field: Field[Any]) -> str:
    if field.default is not MISSING:
        return f"{field.type} = {field.default!r}"
    return f"{field.type}{' = ...' if field.default_factory is not MISSING else ''}"


def _signature(function: Any) -> str:
    return _text(inspect.signature(function))


def _text(signature: inspect.Signature) -> str:
    return str(signature).replace("'", "")  # annotations are strings everywhere in core


def main() -> None:
    path = snapshot()
    text = json.dumps(surface(), indent=1, sort_keys=True) + "\n"
    if path.exists() and path.read_text(encoding="utf-8") != text and "--unreleased" not in sys.argv[1:]:
        sys.exit(f"{path.name} is a promise: raise PLUGIN_API in rtp_core/device/manifest.py, then run this again")
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
