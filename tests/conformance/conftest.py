"""Plugins in a temporary folder, installed as far as importlib.metadata can tell."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PLUGIN = """
from dataclasses import replace
from rtp_core.device.reference_manifest import MANIFEST as REF
from rtp_core.plugin import DeviceInfo, hookimpl

MANIFEST = replace(REF, kind="acme", dtypes=("float32",), schemes=("q8_0",))  # of each as few as there may be

@hookimpl
def rtp_device_manifest():
    return MANIFEST

@hookimpl
def rtp_device_probe():
    return [DeviceInfo("acme:0", "a test", 1 << 30, 1 << 30)]

@hookimpl
def rtp_device_create(info, config):
    from rtp_acme_bad.device import AcmeDevice
    return AcmeDevice(info, config)
"""
DEVICE = """
from rtp_core.device.reference import ReferenceDevice
from rtp_acme_bad.plugin import MANIFEST

class AcmeDevice(ReferenceDevice):
    manifest = MANIFEST
"""
METADATA = "Metadata-Version: 2.1\nName: rtp-acme-bad\nVersion: 0.3\nRequires-Dist: {requires}\n"

MakePlugin = Callable[..., Path]


@pytest.fixture
def make_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakePlugin]:
    """make_plugin(head=..., device=..., requires=...): kind `acme` of distribution rtp-acme-bad."""

    def make(*, head: str = "", device: str = "", requires: str = "rtp-core") -> Path:
        package, info = tmp_path / "rtp_acme_bad", tmp_path / "rtp_acme_bad-0.3.dist-info"
        package.mkdir()
        info.mkdir()
        files = {
            package / "__init__.py": "",
            package / "plugin.py": head + PLUGIN,
            package / "device.py": DEVICE + device,
            info / "METADATA": METADATA.format(requires=requires),
            info / "entry_points.txt": "[rtp.devices]\nacme = rtp_acme_bad.plugin\n",
        }
        for path, text in files.items():
            path.write_text(text, encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
        return tmp_path

    yield make
    for name in [name for name in sys.modules if name.partition(".")[0] == "rtp_acme_bad"]:
        del sys.modules[name]
