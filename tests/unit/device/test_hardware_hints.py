"""Hardware that is seen without a plugin names the package to install. The system looked at is a made-up one."""

from __future__ import annotations

from pathlib import Path

import pytest

from rtp_core.device import hardware_hints as module, opening
from rtp_core.device.hardware_hints import hardware_hints, package_of
from rtp_core.device.loader import load_plugins
from rtp_core.device.opening import open_device
from rtp_core.errors import DeviceUnavailableError
from rtp_core.plugin import DeviceConfig


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A system without any hardware, which is the one that core looks at."""
    (tmp_path / "dev").mkdir()
    (tmp_path / "sys/bus/pci/devices").mkdir(parents=True)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    return tmp_path


def plug(root: Path, address: str, vendor: str, device_class: str) -> None:
    device = root / "sys/bus/pci/devices" / address
    device.mkdir()
    (device / "vendor").write_text(vendor + "\n")
    (device / "class").write_text(device_class + "\n")


def test_every_entry_is_complete_and_each_kind_has_one_package() -> None:
    entries = module._entries()
    assert all(
        {"kind", "name", "package"} <= set(entry) <= {"kind", "name", "package", "pci", "dev"} for entry in entries
    )
    kinds = [entry["kind"] for entry in entries]
    assert len(kinds) == len(set(kinds))
    assert all(entry["package"] == f"rtp-{entry['kind']}" for entry in entries)
    assert package_of(kinds[0]) == f"rtp-{kinds[0]}"
    assert package_of("zebra") is None


def test_a_bare_machine_is_told_of_its_processor_unless_it_has_a_plugin(root: Path) -> None:
    (hint,) = hardware_hints([])
    assert (hint.command, hint.seen) == ("pip install rtp-cpu", "")
    assert hardware_hints(["cpu"]) == []


def test_a_card_on_the_bus_is_seen_by_vendor_and_class(root: Path) -> None:
    plug(root, "0000:00:1f.3", "0x10de", "0x040300")  # a sound device of the same vendor
    assert hardware_hints(["cpu"]) == []
    plug(root, "0000:01:00.0", "0x10de", "0x030200")
    (hint,) = hardware_hints(["cpu"])
    assert (hint.package, hint.seen) == ("rtp-cuda", "PCI 0000:01:00.0")
    assert str(hint) == "NVIDIA GPU (PCI 0000:01:00.0): no plugin of kind cuda is installed"
    assert hardware_hints(["cpu", "cuda"]) == []


def test_a_node_of_a_driver_is_evidence_without_a_bus(root: Path) -> None:
    (root / "dev" / "kfd").touch()
    assert [(hint.package, hint.seen) for hint in hardware_hints(["cpu"])] == [("rtp-rocm", "/dev/kfd")]


def test_devices_that_cannot_be_read_are_passed_over(root: Path) -> None:
    (root / "sys/bus/pci/devices/0000:02:00.0").mkdir()
    plug(root, "0000:03:00.0", "not a number", "\u00e9")
    assert hardware_hints(["cpu"]) == []


def test_accelerators_come_before_the_processor(root: Path) -> None:
    (root / "dev" / "nvidiactl").touch()
    assert [hint.kind for hint in hardware_hints([])] == ["cuda", "cpu"]


def test_no_usable_device_names_what_was_seen_and_the_package_for_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "dev" / "kfd").touch()
    monkeypatch.setenv("RTP_PLUGINS", "ref")
    monkeypatch.setattr(
        opening, "load_plugins", lambda **options: [p for p in load_plugins(**options) if p.kind == "ref"]
    )
    with pytest.raises(DeviceUnavailableError, match=r"no usable device.*/dev/kfd.*no plugin of kind rocm") as caught:
        open_device("auto", DeviceConfig())
    assert caught.value.hint == "pip install rtp-rocm"
