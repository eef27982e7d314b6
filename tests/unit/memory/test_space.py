"""Memory that the C library keeps for later goes back to the system when it is asked for."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from rtp_core.memory.space import give_back_free_memory

STATUS = Path("/proc/self/status")
SIZE, COUNT = 64 << 10, 1000  # of blocks that come from the heap, not from mappings of their own


def resident_bytes() -> int:
    (line,) = [line for line in STATUS.read_text().splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(
    not STATUS.exists() or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="neither Linux nor its C library"
)
def test_freed_blocks_below_one_that_is_held_are_given_back() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = (
        ctypes.c_void_p,
        [ctypes.c_size_t],
        [ctypes.c_void_p],
    )
    blocks = [libc.malloc(SIZE) for _ in range(COUNT)]
    for block in blocks:
        ctypes.memset(block, 1, SIZE)
    for block in blocks[:-1]:
        libc.free(block)
    before = resident_bytes()
    give_back_free_memory()
    assert before - resident_bytes() > SIZE * COUNT // 2
    libc.free(blocks[-1])


def test_where_there_is_no_such_call_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    give_back_free_memory()
