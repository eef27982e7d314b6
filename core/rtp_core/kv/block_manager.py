"""The block manager: which request owns which blocks of the KV cache.

It owns ids and counts; not the memory behind them, and not who is served next.
"""

from __future__ import annotations

from rtp_core.errors import ConfigError, DoubleFreeError, RequestError


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
        self._tables: dict[str, list[int]] = {}
        self._num_tokens: dict[str, int] = {}  # that each table covers
        self._shown: dict[str, tuple[int, ...]] = {}  # tables as they were asked for, until they change

    @property
    def num_free_blocks(self) -> int:
        return len(self._free)

    def num_blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def allocate(self, request_id: str, num_tokens: int) -> bool:
        """Start a table that covers `num_tokens`. False, with nothing changed, where the free blocks are too few.

        Raises RequestError where the request already has a table.
        """
        if request_id in self._tables:
            raise RequestError(f"request {request_id!r} already has blocks", where="the block manager")
        if self.num_blocks_for(num_tokens) > len(self._free):
            return False
        self._tables[request_id] = []
        self._num_tokens[request_id] = 0
        return self.extend(request_id, num_tokens)

    def extend(self, request_id: str, num_tokens: int) -> bool:
        """Grow a table until it covers `num_tokens`; one that does so already stays as it is.

        False, with nothing changed, where the free blocks are too few. Raises RequestError for an unknown request.
        """
        table = self._table(request_id)
        if num_tokens <= self._num_tokens[request_id]:
            return True
        missing = -(-num_tokens // self.block_size) - len(table)
        if missing > len(self._free):
            return False
        for _ in range(missing):
            table.append(self._free.pop())
        if missing:
            self._shown.pop(request_id, None)
        self._num_tokens[request_id] = num_tokens
        return True

    def free(self, request_id: str) -> None:
        """Take back all blocks of a request. Raises DoubleFreeError where it has no table."""
        try:
            table = self._tables.pop(request_id)
        except KeyError:
            raise DoubleFreeError(f"request {request_id!r} has no blocks to free", where="the block manager") from None
        del self._num_tokens[request_id]
        self._shown.pop(request_id, None)
        self._free.extend(reversed(table))

    def block_table(self, request_id: str) -> tuple[int, ...]:
        """The request's blocks now, in the order of its tokens: the same object while they are the same blocks.

        Raises RequestError for an unknown request.
        """
        shown = self._shown.get(request_id)
        if shown is None:
            shown = self._shown[request_id] = tuple(self._table(request_id))
        return shown

    def check_integrity(self) -> None:
        """Assert that each block is free or owned by one request, and that no table is longer than it needs to be."""
        owned = [block for table in self._tables.values() for block in table]
        assert sorted(self._free + owned) == list(range(self.num_blocks)), "a block is lost, shared or owned twice"
        assert self._tables.keys() == self._num_tokens.keys()
        assert all(shown == tuple(self._tables[request_id]) for request_id, shown in self._shown.items())
        for request_id, table in self._tables.items():
            needed = self.num_blocks_for(self._num_tokens[request_id])
            assert len(table) == needed, f"request {request_id!r} has {len(table)} blocks and needs {needed}"

    def _table(self, request_id: str) -> list[int]:
        try:
            return self._tables[request_id]
        except KeyError:
            raise RequestError(f"request {request_id!r} has no blocks", where="the block manager") from None
