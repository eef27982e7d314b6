"""Hardware that is here and has no plugin: which package to install. All names are in hardware_hints.toml."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path("/")  # of the system whose hardware is looked at


@dataclass(frozen=True, slots=True)
class HardwareHint:
    """`name` as people know it, `seen` where, `package` to install for `kind`."""

    kind: str
    name: str
    package: str
    seen: str

    @property
    def command(self) -> str:
        return f"pip install {self.package}"

    def __str__(self) -> str:
        place = f" ({self.seen})" if self.seen else ""
        return f"{self.name}{place}: no plugin of kind {self.kind} is installed"


def hardware_hints(installed: Iterable[str], root: Path | None = None) -> list[HardwareHint]:
    """A hint for each kind that is not among `installed` though its hardware is here. Best advice first."""
    kinds = frozenset(installed)
    root = root or ROOT
    found = []
    for entry in _entries():
        evidence = "" if not (entry.get("pci") or entry.get("dev")) else next(_evidence(entry, root), None)
        if entry["kind"] not in kinds and evidence is not None:
            found.append(HardwareHint(entry["kind"], entry["name"], entry["package"], evidence))
    return found


def package_of(kind: str) -> str | None:
    """The package that provides a kind, where core has heard of one."""
    return next((entry["package"] for entry in _entries() if entry["kind"] == kind), None)


def _entries() -> list[Mapping[str, Any]]:
    import tomllib

    text = Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")
    entries: list[Mapping[str, Any]] = tomllib.loads(text)["hint"]
    return entries


def _evidence(entry: Mapping[str, Any], root: Path) -> Iterator[str]:
    """Where the hardware shows. Nodes come first: a driver is there already."""
    yield from (f"/dev/{node}" for node in entry.get("dev", ()) if (root / "dev" / node).exists())
    wanted = {rule["vendor"]: tuple(rule["class"]) for rule in entry.get("pci", ())}
    for device in sorted((root / "sys/bus/pci/devices").glob("*")):
        classes = wanted.get(_read(device / "vendor"))
        if classes and _read(device / "class").startswith(classes):
            yield f"PCI {device.name}"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):  # the device left, or is not ours to look at
        return ""
