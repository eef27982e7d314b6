"""A kind's name and the template, made into the files of a project. Writes nothing."""

from __future__ import annotations

import re
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import PurePosixPath
from string import Template

from rtp_core.errors import ConfigError

RESERVED = ("all", "auto", "core", "meta", "ref")  # to `--device`, the listings or pip they mean something else
MAX_KIND = 40  # characters

_SUFFIX = ".in"  # of the template's files, which are not Python, TOML or C before they are filled in


class _File(Template):
    """`@@{kind}`: in no language of the template does it mean anything else, so nothing needs escaping."""

    delimiter = "@@"


def check_kind(kind: str) -> None:
    """Raises ConfigError for a name that no plugin can have as its kind."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", kind) or len(kind) > MAX_KIND:
        proposal = re.sub(r"[^a-z0-9]+", "_", kind.lower().removeprefix("rtp-").removeprefix("rtp_")).strip(
            "_0123456789"
        )
        raise ConfigError(
            f"bad kind {kind!r}",
            why=f"expected lower case letters, digits and underscores, a letter first, at most {MAX_KIND}",
            hint=f"rtp plugin new {proposal[:MAX_KIND] or 'acme'}",
        )
    if kind in RESERVED:
        raise ConfigError(f"kind {kind!r} is reserved", why=f"{', '.join(RESERVED)} mean something else")


def distribution(kind: str) -> str:
    """What pip calls the plugin of a kind."""
    return "rtp-" + re.sub("_+", "-", kind.strip("_"))


def project(kind: str, *, native: bool, api: tuple[int, int], core_version: str) -> dict[PurePosixPath, str]:
    """The files of a new plugin: path under its folder, contents. `native`: with a kernel in C.

    Raises ConfigError for a bad kind.
    """
    check_kind(kind)
    values = {
        "kind": kind,
        "dist": distribution(kind),
        "package": f"rtp_{kind}",
        "cls": "".join(part.capitalize() for part in kind.split("_")),
        "api": f"({api[0]}, {api[1]})",
        "core_version": core_version,
    }
    template = files("rtp_core.plugin_template")
    result: dict[PurePosixPath, str] = {}
    for part in ("common", "native" if native else "pure"):
        for path, text in _texts(template / part, PurePosixPath()):
            result[_renamed(path, values["package"])] = _File(text).substitute(values)
    return dict(sorted(result.items()))


def _texts(folder: Traversable, path: PurePosixPath) -> list[tuple[PurePosixPath, str]]:
    found = []
    for entry in folder.iterdir():
        if entry.is_dir():
            found += _texts(entry, path / entry.name)
        elif entry.name.endswith(_SUFFIX):
            found.append((path / entry.name.removesuffix(_SUFFIX), entry.read_text(encoding="utf-8")))
    return found


def _renamed(path: PurePosixPath, package: str) -> PurePosixPath:
    """Where a file of the template goes: `dot-` hides, `package` is the plugin's own."""
    return PurePosixPath(*(re.sub(r"^package\b", package, re.sub("^dot-", ".", part)) for part in path.parts))
