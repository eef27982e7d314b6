"""Blocks are owned once, tables are as long as needed, and a call that fails changes nothing."""

from __future__ import annotations

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rtp_core.errors import ConfigError, DoubleFreeError, RequestError
from rtp_core.kv.block_manager import BlockManager


@pytest.mark.parametrize(("tokens", "blocks"), [(0, 0), (1, 1), (4, 1), (5, 2), (8, 2), (9, 3)])
def test_a_part_of_a_block_needs_a_whole_one(tokens, blocks):
    assert BlockManager(8, 4).num_blocks_for(tokens) == blocks


@pytest.mark.parametrize(("num_blocks", "block_size"), [(0, 4), (4, 0), (-1, 4)])
def test_sizes_below_one_are_an_error(num_blocks, block_size):
    with pytest.raises(ConfigError, match="expected at least 1"):
        BlockManager(num_blocks, block_size)


def test_a_table_grows_only_when_its_last_block_is_full():
    blocks = BlockManager(4, 4)
    assert blocks.allocate("a", 3)
    table = blocks.block_table("a")
    assert blocks.extend("a", 4) and blocks.block_table("a") == table
    assert blocks.extend("a", 5) and blocks.block_table("a")[:1] == table
    assert len(blocks.block_table("a")) == 2
    assert blocks.extend("a", 1) and len(blocks.block_table("a")) == 2


def test_a_table_handed_out_does_not_change_later():
    blocks = BlockManager(4, 1)
    blocks.allocate("a", 1)
    table = blocks.block_table("a")
    blocks.extend("a", 3)
    assert len(table) == 1


def test_a_table_is_the_same_object_while_it_has_the_same_blocks():
    blocks = BlockManager(8, 4)
    blocks.allocate("a", 3)
    blocks.allocate("b", 1)
    table, other = blocks.block_table("a"), blocks.block_table("b")
    assert blocks.extend("a", 4) and blocks.extend("a", 2) and not blocks.extend("a", 33)
    assert blocks.block_table("a") is table
    assert blocks.extend("a", 5)
    longer = blocks.block_table("a")
    assert longer is not table and longer[:1] == table
    assert blocks.block_table("a") is longer and blocks.block_table("b") is other
    blocks.free("a")
    blocks.allocate("a", 8)
    assert blocks.block_table("a") == longer and blocks.block_table("a") is not longer, "blocks of another life"


def test_too_few_blocks_is_false_and_changes_nothing():
    blocks = BlockManager(3, 4)
    assert blocks.allocate("a", 5)
    table = blocks.block_table("a")
    assert not blocks.extend("a", 13)
    assert not blocks.allocate("b", 5)
    assert blocks.block_table("a") == table and blocks.num_free_blocks == 1
    with pytest.raises(RequestError):
        blocks.block_table("b")
    assert blocks.allocate("b", 4)
    blocks.check_integrity()


def test_blocks_freed_last_are_handed_out_first():
    blocks = BlockManager(8, 1)
    blocks.allocate("a", 3)
    table = blocks.block_table("a")
    blocks.free("a")
    blocks.allocate("b", 3)
    assert blocks.block_table("b") == table == (0, 1, 2)


def test_unknown_and_doubled_requests_are_errors():
    blocks = BlockManager(4, 4)
    blocks.allocate("a", 1)
    with pytest.raises(RequestError, match="already has blocks"):
        blocks.allocate("a", 1)
    with pytest.raises(RequestError, match="'b' has no blocks"):
        blocks.extend("b", 1)
    blocks.free("a")
    with pytest.raises(DoubleFreeError, match="'a'"):
        blocks.free("a")


@pytest.mark.parametrize(
    "damage",
    [
        lambda blocks: blocks._free.append(blocks._tables["a"][0]),
        lambda blocks: blocks._free.pop(),
        lambda blocks: blocks._tables.update(b=blocks._tables["a"][:1]),
        lambda blocks: blocks._tables.pop("b"),
    ],
)
def test_the_integrity_check_sees_damage(damage):
    blocks = BlockManager(8, 4)
    blocks.allocate("a", 5)
    blocks.allocate("b", 2)
    blocks.check_integrity()
    damage(blocks)
    with pytest.raises(AssertionError):
        blocks.check_integrity()


class BlockManagerMachine(RuleBasedStateMachine):
    """Against a model that only knows how many tokens each request covers."""

    NUM_BLOCKS, BLOCK_SIZE = 12, 3
    ids = st.sampled_from("abcd")
    token_counts = st.integers(0, 45)

    def __init__(self):
        super().__init__()
        self.blocks = BlockManager(self.NUM_BLOCKS, self.BLOCK_SIZE)
        self.tokens = {}

    def _fits(self, request_id, num_tokens):
        wanted = {**self.tokens, request_id: max(num_tokens, self.tokens.get(request_id, 0))}
        return sum((count + self.BLOCK_SIZE - 1) // self.BLOCK_SIZE for count in wanted.values()) <= self.NUM_BLOCKS

    @rule(request_id=ids, num_tokens=token_counts)
    def allocate(self, request_id, num_tokens):
        if request_id in self.tokens:
            with pytest.raises(RequestError):
                self.blocks.allocate(request_id, num_tokens)
            return
        fits = self._fits(request_id, num_tokens)
        table = self.blocks.allocate(request_id, num_tokens)
        assert (table is not None) == fits
        if fits:
            assert self.blocks.block_table(request_id) is table
            self.tokens[request_id] = num_tokens

    @precondition(lambda self: self.tokens)
    @rule(data=st.data(), num_tokens=token_counts)
    def extend(self, data, num_tokens):
        request_id = data.draw(st.sampled_from(sorted(self.tokens)))
        before = self.blocks.block_table(request_id)
        fits = self._fits(request_id, num_tokens)
        grown = self.blocks.extend(request_id, num_tokens)
        assert (grown is not None) == fits
        after = self.blocks.block_table(request_id)
        assert after[: len(before)] == before
        if fits:
            assert after is grown
            self.tokens[request_id] = max(num_tokens, self.tokens[request_id])
        else:
            assert after == before

    @rule(request_id=ids)
    def free(self, request_id):
        if request_id in self.tokens:
            self.blocks.free(request_id)
            del self.tokens[request_id]
        else:
            with pytest.raises(DoubleFreeError):
                self.blocks.free(request_id)

    @invariant()
    def agrees_with_the_model(self):
        self.blocks.check_integrity()
        used = 0
        for request_id, count in self.tokens.items():
            table = self.blocks.block_table(request_id)
            assert len(table) == (count + self.BLOCK_SIZE - 1) // self.BLOCK_SIZE
            used += len(table)
        assert self.blocks.num_free_blocks == self.NUM_BLOCKS - used


TestBlockManagerMachine = BlockManagerMachine.TestCase
TestBlockManagerMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None, derandomize=True)
