"""The reference pages say what the registry of ops and the manifests say."""

from __future__ import annotations

import runpy
from pathlib import Path

from rtp_core.plugin import OPS

DOCS = Path(__file__).parents[2] / "docs"


def test_the_reference_pages_are_fresh() -> None:
    assert runpy.run_path(str(DOCS / "generate.py"))["stale"]() == [], "run python docs/generate.py"


def test_every_op_says_what_it_means_with_its_shapes() -> None:
    text = (DOCS / "op-reference.md").read_text(encoding="utf-8")
    for op in OPS:
        section = text.partition(f"\n### {op}\n")[2].partition("\n### ")[0]
        meaning = section.split("```")[2].partition("- Default")[0]
        assert "[" in meaning or op in ("mul", "concat"), f"{op} has no shapes"  # these two refer to another
