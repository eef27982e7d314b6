"""Plugins as wheels: the template's two flavours unedited, and the worked example."""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path

import pytest

from rtp_core.device.borrowed import WRITING_ORDER

from ..cli.scripted_model import write_model
from .conftest import ROOT, VendorEnvironment, copy_of

EXAMPLE = ROOT / "docs" / "examples" / "rtp-handheld"
GENERATE = "rtp generate 'The sky is' --raw --temperature 0 --max-tokens 8 --dtype float32 --json --device"


def install(vendor: VendorEnvironment, project: Path) -> Path:
    """Install a project from a wheel that is built of it; returns the wheel."""
    dist = project.parent / "dist"
    vendor.out(f"pip wheel --quiet --no-deps --wheel-dir {dist} {project}", project.parent)
    (wheel,) = dist.glob(f"{project.name.replace('-', '_')}-*.whl")
    vendor.out(f"pip install --quiet --no-deps {wheel}", project.parent)
    return wheel


@pytest.mark.parametrize(("flags", "borrowed"), [("", WRITING_ORDER), ("--native", WRITING_ORDER[1:])])
def test_a_new_plugin_unedited_is_available_and_right(
    vendor: VendorEnvironment, tmp_path: Path, flags: str, borrowed: tuple[str, ...]
) -> None:
    kind = "bare" if not flags else "bare_native"
    vendor.out(f"rtp plugin new {kind} {flags}", tmp_path)
    install(vendor, tmp_path / f"rtp-{kind.replace('_', '-')}")

    listing = json.loads(vendor.out("rtp devices list --json", tmp_path))
    assert {p["kind"]: p["state"] for p in listing["plugins"]}[kind] == "AVAILABLE"
    todo = json.loads(vendor.out(f"rtp plugin todo {kind} --json", tmp_path))
    assert tuple(todo["borrowed"]) == borrowed
    assert tuple(todo["own"]) == tuple(name for name in WRITING_ORDER if name not in borrowed)

    checked = vendor.run(f"rtp devices check {kind} --level primitive", tmp_path)
    assert checked.returncode == 0, checked.stdout
    assert checked.stdout.rstrip().endswith(f", borrowed: {len(borrowed)}")


def test_a_new_plugins_own_tests_are_the_suite(vendor: VendorEnvironment, tmp_path: Path) -> None:
    vendor.out("rtp plugin new tested", tmp_path)
    install(vendor, tmp_path / "rtp-tested")
    ran = vendor.run("python -m pytest --rtp-level primitive -k 'contract or add'", tmp_path / "rtp-tested")
    assert ran.returncode == 0, ran.stdout
    assert re.search(r"\d\d+ passed", ran.stdout), ran.stdout


def test_generating_on_a_device_that_borrows_warns_in_one_line(vendor: VendorEnvironment, tmp_path: Path) -> None:
    vendor.out("rtp plugin new lent", tmp_path)
    install(vendor, tmp_path / "rtp-lent")
    said = vendor.run(f"rtp generate a --device lent --model {write_model(tmp_path)} --max-tokens 2", tmp_path).stdout
    (warning,) = [line for line in said.splitlines() if "borrowed" in line]
    assert warning.startswith("lent: 15 of 15 primitives are borrowed from the reference")
    assert ", ".join(WRITING_ORDER) in warning and "rtp plugin todo lent" in warning


def test_the_worked_example_gives_the_references_tokens(vendor: VendorEnvironment, tmp_path: Path) -> None:
    install(vendor, copy_of(EXAMPLE, tmp_path))
    ours, reference = (json.loads(vendor.out(f"{GENERATE} {kind}", tmp_path)) for kind in ("handheld", "ref"))
    assert ours["device"] == "handheld:0"
    assert len(ours["token_ids"]) == 8
    assert ours["token_ids"] == reference["token_ids"]
    todo = json.loads(vendor.out("rtp plugin todo handheld --json", tmp_path))
    assert todo["borrowed"] == []


def test_the_worked_example_conforms(vendor: VendorEnvironment, tmp_path: Path) -> None:
    install(vendor, copy_of(EXAMPLE, tmp_path))
    checked = vendor.run("rtp devices check handheld --level full", tmp_path)
    assert checked.returncode == 0, checked.stdout


def test_the_worked_example_is_short_and_stands_on_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import vendor_lines

    assert sum(vendor_lines.vendor_lines().values()) <= vendor_lines.LIMIT
    sources = [path.read_text(encoding="utf-8") for path in (EXAMPLE / "rtp_handheld").glob("*.py")]
    nodes = [node for source in sources for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
    modules = {node.module for node in nodes if node.module and node.module.startswith("rtp_")}
    assert modules == {"rtp_core.plugin", "rtp_handheld.card", "rtp_handheld.device", "rtp_handheld.plugin"}
    names = {alias.name for node in nodes for alias in node.names}
    assert "BorrowedPrimitives" not in names
    assert not [
        source for source in sources if re.search(r"reference_ops|ReferenceDevice|host_addressable=True", source)
    ]


def test_the_measurement_prints_one_document(vendor: VendorEnvironment) -> None:
    document = json.loads(vendor.out(f"{sys.executable} {ROOT / 'benchmarks' / 'vendor_lines.py'}", ROOT))
    assert document["lines"] == sum(document["files"].values()) <= document["limit"] == 250
