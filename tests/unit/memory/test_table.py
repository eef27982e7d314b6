"""The two tables of the article on RTP-LLM's memory (a 7B Qwen2 on one device), from the same allocations."""

from __future__ import annotations

import re
from typing import NamedTuple

from rtp_core.memory.arena import Arena
from rtp_core.memory.space import MemorySpace, Region
from rtp_core.memory.storage import Storage
from rtp_core.memory.table import HEADER

HIDDEN, INTERMEDIATE, VOCAB = 3584, 18944, 152064  # of Qwen2-7B
LONG, SHORT = 3687, 21  # tokens of the first query; requests that decode in the second table
ROW = re.compile(r"\| 0x([0-9a-f]+) \| +(\d+) \( *([0-9a-f]+)\) \| (USED|FREE) \| +(\d*) *\| +(\S*) *\|")

# What the article prints: address, bytes, AVAIL, TRACE and TAG. Its tags may be blank, ours never are.
LONG_QUERY = """
| 0x7f9b92000000 |     33554432 ( 2000000) | USED |      |                  |
| 0x7f9b94000000 |        49152 (    c000) | USED |    0 |      curandstate |
| 0x7f9b9400c000 |   9238347776 (226a60000) | USED |    1 |                  |
| 0x7f9dbaa6c000 |         4096 (    1000) | USED |    3 |           eos_id |
| 0x7f9dbaa6d000 |        14752 (    39a0) | USED |   18 |     combo_tokens |
| 0x7f9dbaa709a0 |           16 (      10) | USED |   19 |                  |
| 0x7f9dbc3a54f0 |           16 (      10) | USED |   23 |       cu_seqlens |
| 0x7f9dbc3a5500 |        14752 (    39a0) | USED |   24 |   padding_offset |
| 0x7f9dbc3a8ea0 |     26428416 ( 1934400) | USED |   25 |     attn_out_buf |
| 0x7f9dbdcdd2a0 |     26428416 ( 1934400) | USED |   35 |      ffn_out_buf |
| 0x7f9dbf6116a0 |     26428416 ( 1934400) | USED |   34 |                  |
| 0x7f9dc0f45aa0 |    139693056 ( 8538c00) | USED |   36 |      gemm_output |
| 0x7f9dc947e6a0 |     23271776 ( 1631960) | FREE |      |                  |
"""
SHORT_QUERY = """
| 0x7ee38e000000 |     33554432 ( 2000000) | USED |      |                  |
| 0x7ee390000000 |        49152 (    c000) | USED |    0 |      curandstate |
| 0x7ee39000c000 |   9238347776 (226a60000) | USED |    1 |         kv_cache |
| 0x7ee5b6a6c000 |         4096 (    1000) | USED |    3 |           eos_id |
| 0x7ee5b6a6d000 |       150784 (   24d00) | FREE |      |                  |
| 0x7ee5b6a91d00 |         7168 (    1c00) | USED |   39 |                  |
| 0x7ee5b6a93900 |           16 (      10) | USED |   55 |                  |
| 0x7ee5b6a93910 |           96 (      60) | USED |   56 |                  |
| 0x7ee5b6a93970 |           96 (      60) | USED |   57 |                  |
| 0x7ee5b6a939d0 |           16 (      10) | USED |   58 |                  |
| 0x7ee5b6a939e0 |           16 (      10) | USED |   59 |                  |
| 0x7ee5b6a939f0 |           16 (      10) | USED |   61 |                  |
| 0x7ee5b6a93a00 |           16 (      10) | USED |   62 |                  |
| 0x7ee5b6a93a10 |           16 (      10) | USED |   63 |                  |
| 0x7ee5b6a93a20 |           16 (      10) | USED |   64 |                  |
| 0x7ee5b6a93a30 |       143040 (   22ec0) | FREE |      |                  |
| 0x7ee5b6ab68f0 |       150528 (   24c00) | USED |   35 |      ffn_out_buf |
| 0x7ee5b6adb4f0 |       608256 (   94800) | USED |   40 |      gemm_output |
| 0x7ee5b6b6fcf0 |       608256 (   94800) | USED |   54 |                  |
| 0x7ee5b6c044f0 |       608256 (   94800) | USED |   60 |                  |
| 0x7ee5b6c98cf0 |      2433280 (  252100) | USED |   84 |                  |
| 0x7ee5b6eeadf0 |    264000016 ( fbc5210) | FREE |      |                  |
"""


class Row(NamedTuple):
    offset: int  # from the first address
    nbytes: int
    avail: str
    tag: str


def parsed(table: str) -> list[Row]:
    found = [match.groups() for match in map(ROW.fullmatch, table.splitlines()) if match]
    base = int(found[0][0], 16)
    assert all(int(nbytes) == int(in_hex, 16) for _, nbytes, in_hex, *_ in found)
    return [Row(int(address, 16) - base, int(n), avail, tag) for address, n, _, avail, _, tag in found]


def arena_like(rows: list[Row], address: int) -> Arena:
    return Arena(Region(MemorySpace("a10:0", host_addressable=False), address, rows[-1].offset + rows[-1].nbytes), 16)


def assert_same(arena: Arena, printed: list[Row]) -> None:
    lines = arena.table().splitlines()
    assert HEADER in lines
    ours = parsed(arena.table())
    assert len(ours) == sum(line.startswith("| 0x") for line in lines), "a row in another form than the article's"
    for row in printed:
        (other,) = [o for o in ours if o.offset == row.offset]
        assert other[:3] == row[:3]
        assert other.tag == row.tag or (row.tag == "" and bool(other.tag) == (row.avail == "USED"))


def at_start(arena: Arena) -> list[Storage]:
    """What both tables begin with: the work space of a library, the sampler's state, the KV cache, the end tokens."""
    sizes = {"workspace": 32 << 20, "curandstate": 48 << 10, "kv_cache": 9238347776, "eos_id": 4096}
    return [arena.allocate(nbytes, tag) for tag, nbytes in sizes.items()]


def test_a_long_query_in_the_gemm_of_its_ffn_layer() -> None:
    printed = parsed(LONG_QUERY)
    arena = arena_like(printed, 0x7F9B92000000)
    hidden_states, ints = LONG * HIDDEN * 2, LONG * 4
    held = at_start(arena)
    held += [arena.allocate(ints, "combo_tokens"), arena.allocate(16, "input_lengths")]
    # The article's print has no row for the 26430272 bytes that follow: hidden states of 26428416, and 1856 more.
    held += [arena.allocate(hidden_states, "hidden_states"), arena.allocate(1856, "kv_cache_block_id")]
    held += [arena.allocate(16, "cu_seqlens"), arena.allocate(ints, "padding_offset")]
    held += [arena.allocate(hidden_states, "attn_out_buf")]
    normed = arena.allocate(hidden_states, "layernorm")
    held += [arena.allocate(hidden_states, "layernorm")]  # trace 34 comes before 35, and lies behind it
    normed.free()
    held += [arena.allocate(hidden_states, "ffn_out_buf")]
    held += [arena.allocate(LONG * INTERMEDIATE * 2, "gemm_output")]
    assert (hidden_states, LONG * INTERMEDIATE * 2) == (26428416, 139693056)
    assert_same(arena, printed)
    assert arena.stats().fragmented_bytes == 0
    assert "with 0 fragments of size: 0" in arena.table()


def test_requests_that_decode_in_the_sampler() -> None:
    printed = parsed(SHORT_QUERY)
    arena = arena_like(printed, 0x7EE38E000000)
    held = at_start(arena)
    hidden = arena.allocate(150784, "hidden_states")
    attention = arena.allocate(150512, "attn_out_buf")
    held += [arena.allocate(SHORT * HIDDEN * 2, "ffn_out_buf")]
    attention.free()
    held += [arena.allocate(HIDDEN * 2, "last_hidden"), arena.allocate(VOCAB * 4, "gemm_output")]
    held += [arena.allocate(VOCAB * 4, "logits")]
    held += [arena.allocate(nbytes, "sampler") for nbytes in (16, 96, 96, 16, 16, VOCAB * 4, 16, 16, 16, 16)]
    held += [arena.allocate(2433280, "sampler")]
    hidden.free()
    assert (SHORT * HIDDEN * 2, VOCAB * 4) == (150528, 608256)
    assert_same(arena, printed)
    # RTP-LLM's fragments are all free chunks but the last one.
    assert arena.stats().fragmented_bytes == 150784 + 143040
    assert "available 264293840 bytes, with 2 fragments of size: 293824" in arena.table()
