"""Lines that a vendor writes for first tokens: those of the worked example's Python, tests, comments and all.

    python benchmarks/vendor_lines.py

One JSON document: {"lines", "limit", "files": {path: lines}}; ends with 1 above the limit.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[1] / "docs" / "examples" / "rtp-handheld"
LIMIT = 250


def vendor_lines(project: Path = EXAMPLE) -> dict[str, int]:
    """Lines of every Python file of a project, by path under it."""
    return {
        str(path.relative_to(project)): len(path.read_text(encoding="utf-8").splitlines())
        for path in sorted(project.rglob("*.py"))
    }


if __name__ == "__main__":
    files = vendor_lines()
    print(json.dumps({"lines": sum(files.values()), "limit": LIMIT, "files": files}))
    sys.exit(sum(files.values()) > LIMIT)
