"""docs/writing-a-backend.md, done as it says: its commands are run, its patches applied, its outputs compared."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from .conftest import ROOT, VendorEnvironment

DOCUMENT = ROOT / "docs" / "writing-a-backend.md"


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its language, what is in it, and the line of the document where that begins."""

    language: str
    text: str
    line: int

    def commands(self) -> Iterator[tuple[str, list[str]]]:
        """Each command of a console block with the lines that it prints."""
        for part in re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]:
            command, *printed = part.splitlines()
            yield command, printed


def blocks(document: str) -> list[Block]:
    fenced = re.finditer(r"^```(\w+)\n(.*?)^```$", document, re.MULTILINE | re.DOTALL)
    return [Block(m[1], m[2], document.count("\n", 0, m.start()) + 2) for m in fenced]


def matches(expected: list[str], printed: str) -> bool:
    """Whether the lines are those expected. `...` stands for anything: alone on a line, for any lines.

    How wide a column is depends on what else is installed, so one space is as good as many; and in 399/399 only
    that both are equal counts, as the suite grows.
    """
    pattern = "".join(_line_pattern(line, number) for number, line in enumerate(expected))
    return re.fullmatch(pattern, "".join(_squeezed(line) + "\n" for line in printed.splitlines())) is not None


def _line_pattern(line: str, number: int) -> str:
    if line == "...":
        return r"(?:.*\n)*"
    words = re.escape(_squeezed(line)).replace(re.escape("..."), ".*")
    return re.sub(r"(\d+)/\1(?!\d)", rf"(?P<all{number}>\\d+)/(?P=all{number})", words) + r"\n"


def _squeezed(line: str) -> str:
    """One space between words; those that a line begins with stay."""
    return re.sub(r"(?<=\S) +", " ", line.rstrip())


def test_the_document_does_what_it_says(vendor: VendorEnvironment, tmp_path: Path) -> None:
    for block in blocks(DOCUMENT.read_text(encoding="utf-8")):
        where = f"{DOCUMENT.name}, line {block.line}"
        if block.language == "diff":
            patch = ["git", "apply", "--whitespace=nowarn", "-"]
            done = subprocess.run(patch, cwd=tmp_path, input=block.text, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{where}: {done.stderr}"
            continue
        assert block.language == "console", f"{where}: nobody runs a block of {block.language}"
        for command, expected in block.commands():
            ran = vendor.run(command, tmp_path)
            assert ran.returncode == 0, f"{where}: {command} ended with {ran.returncode}\n{ran.stdout}"
            assert matches(expected, ran.stdout), f"{where}: {command} printed\n{ran.stdout}"


def test_every_step_has_a_command() -> None:
    steps = re.split(r"^## \d+\. ", DOCUMENT.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    assert len(steps) == 9
    for step in steps:
        assert any(block.language == "console" for block in blocks(step)), step.splitlines()[0]


@pytest.mark.parametrize(
    ("expected", "printed", "is_same"),
    [
        (["a"], "a\n", True),
        (["a"], "b\n", False),
        (["a"], "a\nb\n", False),
        (["a", "..."], "a\nb\nc\n", True),
        (["a", "..."], "a\n", True),
        (["...", "c"], "a\nb\n", False),
        (["1 of ... GiB"], "1 of 23.5 GiB\n", True),
        (["1 of ... GiB"], "2 of 23.5 GiB\n", False),
        (["a b"], "a    b\n", True),
        (["  a b"], "a b\n", False),
        (["(a|b)"], "a\n", False),
        (["all 10/10, rest"], "all 12/12, rest\n", True),
        (["all 10/10, rest"], "all 11/12, rest\n", False),
        (["all 10/10, rest"], "all 12/120, rest\n", False),
        (["all 10/10, rest: 3"], "all 12/12, rest: 4\n", False),
        ([], "", True),
        ([], "warning\n", False),
    ],
)
def test_outputs_are_compared(expected: list[str], printed: str, is_same: bool) -> None:
    assert matches(expected, printed) is is_same


def test_links_lead_somewhere() -> None:
    for path in (DOCUMENT, *(ROOT / "docs" / "examples").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.name}: {target}"
