"""What a device class may define: each objection says what was expected and what was got.

The op registry comes as an argument: it is collected from the very class that asks for these checks.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

from rtp_core.device.manifest import Manifest
from rtp_core.device.op import OpSpec, Override
from rtp_core.device.services import Services

Ops = Mapping[str, OpSpec]

IMPL_NAME = re.compile(r"[A-Za-z_][\w.-]*")  # what --disable-impl and --prefer can name
DEFAULTS = "default."  # plans call core's own implementations so


def declared_overrides(cls: type) -> dict[str, Override]:
    """The overrides of a class by their method's name, those of its bases and mixins included."""
    members = ((name, getattr(getattr(cls, name, None), "__rtp_override__", None)) for name in dir(cls))
    return {name: override for name, override in members if override is not None}


def class_problems(cls: type, device: type, ops: Ops) -> list[str]:
    """What of a subclass of `device`, in its own body and in the mixins it brings, breaks the contract, in words."""
    problems = _manifest_problems(cls)
    seen: list[tuple[str, Override]] = []
    for name, override in declared_overrides(cls).items():
        found = _override_problems(name, override, ops)
        problems += found or [problem for rival in seen for problem in _rivalry(name, override, *rival)]
        seen.append((name, override))
    checked = {base for known in cls.__mro__[1:] if issubclass(known, device) for base in known.__mro__}
    members = {name: m for base in reversed(cls.__mro__) if base not in checked for name, m in vars(base).items()}
    for name, member in members.items():
        if not hasattr(member, "__rtp_override__"):
            problems += _member_problems(name, member, device, ops)
    return problems


def _manifest_problems(cls: type) -> list[str]:
    manifest = getattr(cls, "manifest", None)
    if manifest is None:
        return []  # an abstract class may leave it to its subclasses; creation asks for it
    if not isinstance(manifest, Manifest):
        return [f"manifest: expected a Manifest, got {manifest!r}"]
    if vars(cls).get("kind", manifest.kind) != manifest.kind:
        return [f"kind: expected {manifest.kind!r}, which the manifest says, got {vars(cls)['kind']!r}"]
    return []


def _member_problems(name: str, member: Any, device: type, ops: Ops) -> list[str]:
    if name in ops:
        if not ops[name].is_primitive:
            return [f"{name} redefines a composite: use @overrides({name!r}, impl=...)"]
        return _signature_problems(name, member, name, ops[name].signature)
    service = vars(Services).get(name)
    if inspect.isfunction(service) and not name.startswith("_"):
        return _signature_problems(name, member, name, inspect.signature(service))
    if name.startswith("_") or hasattr(device, name) or name in _annotated(device):
        return []
    return [f"{name}: core never calls this public name; start it with an underscore"]


def _annotated(device: type) -> set[str]:
    return {name for base in device.__mro__ for name in vars(base).get("__annotations__", {})}


def _override_problems(name: str, override: Override, ops: Ops) -> list[str]:
    """What is wrong with one override by itself."""
    spec = ops.get(override.op)
    if spec is None:
        return [f"{name}: overrides unknown op {override.op!r}{_suggestion(override.op, ops)}"]
    if spec.is_primitive:
        return [f"{name}: {override.op} is a primitive: define it as a plain method"]
    problems = []
    if not name.startswith("_"):
        problems.append(f"{name}: an override's own name starts with an underscore")
    impl: Any = override.impl
    if not isinstance(impl, str) or not IMPL_NAME.fullmatch(impl) or impl.startswith(DEFAULTS):
        problems.append(f"{name}: expected an impl name like 'acme.{override.op}', got {impl!r}")
    if type(override.priority) is not int:
        problems.append(f"{name}: expected a whole number as priority, got {override.priority!r}")
    problems += _predicate_problems(name, override.when)
    unknown = sorted(map(str, override.handles - spec.features))
    if unknown:
        known = ", ".join(sorted(spec.features)) or "no features"
        problems.append(f"{name}: handles unknown features {', '.join(unknown)}; {override.op} has {known}")
    optional = {name for name, feature in spec.options.items() if feature not in override.handles}
    return problems + _signature_problems(name, override.function, override.op, spec.signature, frozenset(optional))


def _rivalry(name: str, override: Override, other: str, rival: Override) -> list[str]:
    """What is wrong with two overrides of one class beside each other."""
    if override is rival:
        return []  # one method under two names
    if override.impl == rival.impl:
        return [f"{name} and {other} are both called {override.impl}: expected a name for each implementation"]
    if (override.op, override.priority) == (rival.op, rival.priority):
        return [
            f"{name}: {override.impl} and {rival.impl} override {override.op} with equal priority {override.priority}"
        ]
    return []


def _predicate_problems(name: str, when: Any) -> list[str]:
    if when is None:
        return []
    if not callable(when):
        return [f"{name}: expected when= to be a function of a Signature, got {when!r}"]
    try:
        inspect.signature(when).bind(None)
    except TypeError:
        return [f"{name}: expected when= to take a Signature and nothing else, got {inspect.signature(when)}"]
    except ValueError:  # a native function that does not tell
        return []
    return []


def _signature_problems(
    name: str, member: Any, op: str, expected: inspect.Signature, optional: frozenset[str] = frozenset()
) -> list[str]:
    """`optional` are parameters that may be left out."""
    try:
        got = inspect.signature(member).parameters
    except (TypeError, ValueError):
        return [f"{name}: expected a method, got {member!r}"]
    given = dict(list(got.items())[1:])
    wanted = dict(list(expected.parameters.items())[1:])
    names = tuple(parameter for parameter in wanted if parameter not in optional or parameter in given)
    if tuple(given) != names:
        return [f"{name}: expected parameters {names} of {op}, got {tuple(given)}"]
    return [
        problem for parameter in names for problem in _parameter_problems(name, wanted[parameter], given[parameter])
    ]


def _parameter_problems(name: str, wanted: inspect.Parameter, got: inspect.Parameter) -> list[str]:
    if got.kind not in (got.POSITIONAL_OR_KEYWORD, wanted.kind):
        return [f"{name}: expected {wanted.name} to be {wanted.kind.description}, got {got.kind.description}"]
    if wanted.default is wanted.empty or _is_same(wanted.default, got.default):
        return []
    default = "none" if got.default is got.empty else repr(got.default)
    return [f"{name}: expected {wanted.name} with default {wanted.default!r}, got {default}"]


def _is_same(a: object, b: object) -> bool:
    return a is b or (isinstance(a, int | float | str | bool) and type(a) is type(b) and a == b)


def _suggestion(op: str, ops: Ops) -> str:
    from difflib import get_close_matches

    near = get_close_matches(str(op), ops, 1)
    return f": expected an op of the ladder, perhaps {near[0]!r}" if near else ": expected an op of the ladder"
