"""What is kept when memory runs out: a snapshot in the cache, for `rtp mem`."""

from __future__ import annotations

import time
from pathlib import Path

from rtp_core.errors import CacheError, LibraryMemoryError, OutOfMemoryError


def dump(error: OutOfMemoryError) -> str:
    """Save what the arena that ran out knows; one line that says where, or why not. Empty where no arena did."""
    from rtp_core.checkpoint.cache import cache_root
    from rtp_core.memory.arena import Arena
    from rtp_core.memory.snapshot import Snapshot

    if not isinstance(error.arena, Arena):
        return ""
    path = Path(cache_root()) / "memory" / time.strftime("oom-%Y%m%d-%H%M%S.json")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Snapshot.of(error.arena, beside=error.beside).save(path)
    except (CacheError, OSError) as failure:
        return f"no memory snapshot was kept: {failure}"
    did_run_out = not isinstance(error, LibraryMemoryError) and error.arena.moment("oom") is not None
    return f"rtp mem map {path} --at {'oom' if did_run_out else 'now'}"
