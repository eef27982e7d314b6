"""How the work of a kernel is cut, as plain numbers."""

from __future__ import annotations

from typing import Any, NamedTuple


class Tile(NamedTuple):
    """What one program takes at a time. `stages`: passes whose loads are under way at once.

    Some functions that choose one take `narrow`: on RDNA 3 matrix operands lie in registers twice, so only smaller
    tiles fit into them.
    """

    rows: int
    columns: int
    warps: int
    stages: int = 1

    @property
    def options(self) -> dict[str, Any]:
        """Of a launch. Fusing is said, since Triton's default is about to change."""
        return {"num_warps": self.warps, "num_stages": self.stages, "enable_fp_fusion": True}


def row_tile(width: int) -> Tile:
    """A whole row in one piece, 8 elements or more a thread."""
    columns = 1 << max(0, width - 1).bit_length()
    return Tile(1, columns, max(1, min(16, columns // 512)))
