"""Writes wheels, as a build backend does, in no time: a package of one module, its metadata, and the list of it all."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path


def write_wheel(
    folder: Path, dist: str, kind: str, source: str, *, version: str = "1.2", requires: Sequence[str] = ("rtp-core",)
) -> Path:
    """A wheel of distribution `dist` whose entry point names a module with `source` for a device `kind`."""
    module = dist.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    metadata = ["Metadata-Version: 2.1", f"Name: {dist}", f"Version: {version}"]
    files = {
        f"{module}/__init__.py": "",
        f"{module}/plugin.py": source,
        f"{info}/METADATA": "\n".join([*metadata, *(f"Requires-Dist: {text}" for text in requires)]) + "\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[rtp.devices]\n{kind} = {module}.plugin\n",
    }
    record = [f"{name},sha256={_digest(text)},{len(text.encode())}" for name, text in files.items()]
    path = folder / f"{module}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
        wheel.writestr(f"{info}/RECORD", "\n".join([*record, f"{info}/RECORD,,"]) + "\n")
    return path


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
