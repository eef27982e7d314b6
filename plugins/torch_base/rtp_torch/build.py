"""Which torch is installed and what it was built for, read from its files: importing it takes seconds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

_LINE = re.compile(r"^(__version__|cuda|hip)\b[^=]*= *'([^']*)'", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class TorchBuild:
    """`cuda`, `hip`: the version of that platform, or None where it was not built for it.

    Wheels of torch for GPUs bring a triton that fits them.
    """

    version: str
    cuda: str | None = None
    hip: str | None = None
    has_triton: bool = True

    def __str__(self) -> str:
        return f"torch {self.version}, built for {self.platform}"

    @property
    def platform(self) -> str:
        if self.cuda:
            return f"CUDA {self.cuda}"
        return f"ROCm {self.hip}" if self.hip else "no GPU"


def installed_torch() -> TorchBuild | None:
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    found = dict(_LINE.findall(text))
    version, has_triton = found.get("__version__", "of unknown version"), find_spec("triton") is not None
    return TorchBuild(version, found.get("cuda"), found.get("hip"), has_triton)
