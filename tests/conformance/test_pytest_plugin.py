"""The suite in pytest: the same cases as the command's, and nothing at all without a device."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rtp_core.conformance.subject import Subject
from rtp_core.conformance.suite import cases

from .conftest import MakePlugin

PLUGIN = "rtp_core.conformance.pytest_plugin"
WHOLE_FILE = "from rtp_core.conformance.test_device import *\n"


def run_pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """pytest in a process of its own; its plugin is named here, because an entry point names it only once installed."""
    command = [sys.executable, "-m", "pytest", "-p", PLUGIN, "-p", "no:cacheprovider", *arguments]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture
def vendor(make_plugin: MakePlugin) -> Path:
    folder = make_plugin() / "tests"
    folder.mkdir()
    (folder / "test_acme.py").write_text(WHOLE_FILE)
    return folder


def names(stdout: str) -> set[str]:
    return {line.partition("test_device[")[2][:-1] for line in stdout.splitlines() if "test_device[" in line}


@pytest.mark.parametrize("way", [["test_acme.py"], ["--pyargs", "rtp_core.conformance"]], ids=["one import", "pyargs"])
def test_both_ways_collect_the_cases_of_the_command(vendor: Path, way: list[str]) -> None:
    done = run_pytest(vendor, *way, "--rtp-device", "acme", "--rtp-level", "primitive", "--collect-only", "-q")
    subject = Subject.named("acme")
    expected = {
        f"{c.group}: {c.name}" for group in ("packaging", "contract", "primitives") for c in cases(subject, group)
    }
    subject.close()
    assert names(done.stdout) == expected


def test_the_device_may_be_named_in_the_settings(vendor: Path) -> None:
    (vendor / "pytest.ini").write_text("[pytest]\nrtp_device = acme\nrtp_level = primitive\n")
    done = run_pytest(vendor, "-q", "-k", "contract or rms_norm")
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


def test_a_failure_is_a_message_and_what_rests_on_it_is_skipped(make_plugin: MakePlugin) -> None:
    folder = make_plugin(device="\n    manifest = MANIFEST\n    kv_layout = None\n") / "tests"
    folder.mkdir()
    (folder / "test_acme.py").write_text(WHOLE_FILE)
    done = run_pytest(folder, "-q", "-rf", "--rtp-device", "acme", "--rtp-level", "primitive")
    assert done.returncode == 1
    assert "AttributeError" in done.stdout
    assert "Traceback" not in done.stdout
    assert " skipped" in done.stdout


def test_without_a_device_it_is_one_skipped_test(vendor: Path) -> None:
    done = run_pytest(vendor, "-q", "-rs", "test_acme.py")
    assert done.returncode == 0, done.stdout
    assert "give --rtp-device KIND" in done.stdout


def test_without_a_device_nothing_of_the_suite_is_imported() -> None:
    script = f"import sys, {PLUGIN}; print([m for m in sys.modules if m.startswith('rtp_core') or m == 'numpy'])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert eval(done.stdout) == ["rtp_core", "rtp_core.conformance", PLUGIN]
