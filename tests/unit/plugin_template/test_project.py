"""What a kind's name becomes, and that nothing of the template is left in the files made of it."""

from __future__ import annotations

import ast
import tomllib
from pathlib import PurePosixPath

import pytest

from rtp_core.errors import ConfigError
from rtp_core.plugin_template.project import MAX_KIND, RESERVED, check_kind, distribution, project

KINDS = ("acme", "my_chip2", "a__b_", "x" * MAX_KIND)


def made(kind: str, *, native: bool = False) -> dict[str, str]:
    files = project(kind, native=native, api=(1, 2), core_version="9.8.7")
    return {str(path): text for path, text in files.items()}


@pytest.mark.parametrize("kind", ["", "Acme", "2acme", "_acme", "rtp-acme", "ac me", "acme\n", "ä", "x" * 41, "a/b"])
def test_a_bad_kind_is_refused(kind: str) -> None:
    with pytest.raises(ConfigError, match="expected lower case letters") as caught:
        check_kind(kind)
    check_kind(caught.value.hint.split()[-1])  # what it proposes is a good one


@pytest.mark.parametrize("kind", RESERVED)
def test_a_reserved_kind_is_refused(kind: str) -> None:
    with pytest.raises(ConfigError, match="reserved"):
        made(kind)


@pytest.mark.parametrize(("kind", "dist"), [("acme", "rtp-acme"), ("my_chip", "rtp-my-chip"), ("a__b_", "rtp-a-b")])
def test_a_distribution_has_the_name_that_pip_would_make_of_it(kind: str, dist: str) -> None:
    assert distribution(kind) == dist


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("native", [False, True], ids=["pure", "native"])
def test_the_files_are_whole(kind: str, native: bool) -> None:
    files = made(kind, native=native)
    package = f"rtp_{kind}"
    assert {"pyproject.toml", "README.md", ".gitignore", ".github/workflows/tests.yml"} <= set(files)
    assert {f"{package}/__init__.py", f"{package}/plugin.py", f"{package}/device.py"} <= set(files)
    assert (f"csrc/{package}.h" in files) is native
    for path, text in files.items():
        assert "@@" not in path + text, path
        assert text.endswith("\n"), path
        assert not PurePosixPath(path).is_absolute() and ".." not in PurePosixPath(path).parts
        if path.endswith(".py"):
            ast.parse(text, path)


def test_the_project_says_its_name_its_kind_and_what_it_needs() -> None:
    settings = tomllib.loads(made("my_chip")["pyproject.toml"])["project"]
    assert settings["name"] == "rtp-my-chip"
    assert settings["entry-points"]["rtp.devices"] == {"my_chip": "rtp_my_chip.plugin"}
    assert "rtp-core>=9.8.7" in settings["dependencies"]
    assert "license" not in settings


def test_the_manifest_names_the_api_it_was_written_for_as_a_number() -> None:
    assert "api=(1, 2)," in made("acme")["rtp_acme/plugin.py"]


def test_ci_runs_the_oldest_and_the_newest_core() -> None:
    workflow = made("acme")[".github/workflows/tests.yml"]
    assert 'core: ["==9.8.7", ">=9.8.7"]' in workflow and '"rtp-core${{ matrix.core }}"' in workflow


def test_the_vendors_whole_test_file_is_short() -> None:
    assert len(made("acme")["tests/test_conformance.py"].splitlines()) <= 3
