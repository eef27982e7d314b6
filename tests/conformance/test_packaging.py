"""Known-bad plugins: what only a package can get wrong, and what only a process survives."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from rtp_core.cli.app import app

from .conftest import MakePlugin

SLOW = "import time\nend = time.process_time() + 0.4\nwhile time.process_time() < end: pass\n"
CRASHES = """
    def gemm(self, a, b, *, bias=None, trans_b=False, out=None):
        import os, signal
        if hasattr(b, "scheme") and b.scheme.bits == 8 and bias is not None and a.dtype.name == "float32":
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().gemm(a, b, bias=bias, trans_b=trans_b, out=out)
"""
PATCHES = "import rtp_core.memory.arena as arena\narena.Arena.table = lambda self: ''\n"
BORROWS = """
    def softmax(self, x, *, scale=1.0, softcap=None, mask=None, out=None):
        return super().softmax(x, scale=scale, softcap=softcap, mask=mask, out=out)
    softmax.__rtp_borrowed__ = True
"""


def check(*arguments: str) -> tuple[Result, dict[str, Any]]:
    result = CliRunner().invoke(app(), ["devices", "check", "acme", "--json", *arguments])
    return result, json.loads(result.stdout)


def failing(document: dict[str, Any]) -> set[tuple[str, str]]:
    return {(failure["group"], failure["case"]) for failure in document["failures"]}


@pytest.mark.parametrize(
    ("options", "case", "shows"),
    [
        ({"head": SLOW}, "its module loads in 150 ms of CPU", "expected at most 150 ms of CPU"),
        ({"head": "import _cffi_backend\n"}, "nothing native loads before the probe", "_cffi_backend"),
        ({"requires": "rtp-core<2"}, "its requirements do not cap rtp-core: the plugin API says what fits", "<2"),
        ({"requires": "numpy"}, "its distribution has a name, a version and requires rtp-core", "got numpy"),
    ],
    ids=["slow import", "heavy import", "capped", "undeclared"],
)
def test_a_bad_package_fails_in_packaging(
    make_plugin: MakePlugin, options: dict[str, str], case: str, shows: str
) -> None:
    make_plugin(**options)
    result, document = check("--level", "primitive")
    assert result.exit_code == 1
    assert failing(document) == {("packaging", case)}
    assert shows in document["failures"][0]["message"]


def test_a_plugin_that_patches_core_fails_in_contract(make_plugin: MakePlugin) -> None:
    make_plugin(device=PATCHES)
    _, document = check("--level", "primitive")
    assert ("contract", "core is the same after loading it") in failing(document)
    assert {group for group, _ in failing(document)} == {"contract"}
    assert "rtp_core.memory.arena:Arena.table" in document["failures"][0]["message"]
    assert document["groups"]["primitives"] == {"passed": 0, "failed": 0, "skipped": "rests on contract"}


def test_a_crash_fails_its_case_and_the_rest_goes_on(make_plugin: MakePlugin) -> None:
    make_plugin(device=CRASHES)
    result, document = check("--level", "primitive")
    assert result.exit_code == 1
    assert {group for group, _ in failing(document)} == {"primitives"}
    assert all(case.startswith("gemm ") for _, case in failing(document))
    assert "SIGSEGV" in document["failures"][0]["message"]
    assert document["groups"]["primitives"]["passed"] > 0
    assert document["groups"]["packaging"]["failed"] == 0


def test_borrowed_primitives_pass_and_are_counted(make_plugin: MakePlugin) -> None:
    make_plugin(device=BORROWS)
    result, document = check("--level", "primitive")
    assert (result.exit_code, document["failed"], document["borrowed"]) == (0, 0, ["softmax"])
    text = CliRunner().invoke(app(), ["devices", "check", "acme", "--level", "primitive"]).stdout
    assert text.rstrip().endswith(", borrowed: 1")


def test_a_device_that_is_not_there_is_exit_code_4() -> None:
    assert CliRunner().invoke(app(), ["devices", "check", "nothing"]).exit_code == 4


def test_an_unknown_level_is_a_mistake_of_the_command_line() -> None:
    result = CliRunner().invoke(app(), ["devices", "check", "ref", "--level", "most"])
    assert result.exit_code == 2
    assert "primitive, full, perf" in result.stderr
