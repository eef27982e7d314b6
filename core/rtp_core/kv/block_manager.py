"""The block manager: which request owns which blocks of the KV cache.

It owns ids and counts; not the memory behind them, and not who is served next.
"""

from __future__ import annotations

from rtp_core.errors import ConfigError, DoubleFreeError, RequestError

BlockTable = tuple[int, ...]
"""A request's blocks, in the order of its tokens."""


class BlockManager:
    """Hands out `num_blocks` blocks of `block_size` tokens. Every call does all of its work or nothing.

    Free blocks are a stack: the block freed last is handed out first, since its memory is the warmest, and
    blocks that were never needed stay untouched, so the system never commits their pages.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        for name, value in (("num_blocks", num_blocks), ("block_size", block_size)):
            if value < 1:
                raise ConfigError(f"{name} is {value}", where="the block manager", why="expected at least 1")
        self.num_blocks, self.block_size = num_blocks, block_size
        self._free = list(range(num_blocks - 1, -1, -1))
        self._tables: dict[str, BlockTable] = {}

    @property
    def num_free_blocks(self) -> int:
        return len(self._free)

    def num_blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def allocate(self, request_id: str, num_tokens: int) -> BlockTable | None:
        """Start a table that covers `num_tokens`. None, with nothing changed, where the free blocks are too few.

        Raises RequestError where the request already has a table.
        """
        if request_id in self._tables:
            raise RequestError(f"request {request_id!r} already has blocks", where="the block manager")
        return self._grown(request_id, (), self.num_blocks_for(num_tokens))

    def extend(self, request_id: str, num_tokens: int) -> BlockTable | None:
        """The request's table, grown until it covers `num_tokens`; one that does so already is the same object.

        None, with nothing changed, where the free blocks are too few. Raises RequestError for an unknown request.
        """
        table = self._tables.get(request_id)
        if table is None:
            raise _unknown(request_id)
        missing = -(-num_tokens // self.block_size) - len(table)
        return table if missing <= 0 else self._grown(request_id, table, missing)

    def free(self, request_id: str) -> None:
        """Take back all blocks of a request. Raises DoubleFreeError where it has no table."""
        try:
            table = self._tables.pop(request_id)
        except KeyError:
            raise DoubleFreeError(f"request {request_id!r} has no blocks to free", where="the block manager") from None
        self._free.extend(reversed(table))

    def block_table(self, request_id: str) -> BlockTable:
        """The request's blocks now. Raises RequestError for an unknown request."""
        table = self._tables.get(request_id)
        if table is None:
            raise _unknown(request_id)
        return table

    def check_integrity(self) -> None:
        """Assert that each block is free or owned by one request."""
        owned = [block for table in self._tables.values() for block in table]
        assert sorted(self._free + owned) == list(range(self.num_blocks)), "a block is lost, shared or owned twice"

    def _grown(self, request_id: str, table: BlockTable, missing: int) -> BlockTable | None:
        if missing > len(self._free):
            return None
        first = len(self._free) - missing
        table = self._tables[request_id] = (*table, *reversed(self._free[first:]))
        del self._free[first:]
        return table


def _unknown(request_id: str) -> RequestError:
    return RequestError(f"request {request_id!r} has no blocks", where="the block manager")
