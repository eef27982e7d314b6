"""Sizes in words, and budgets as bytes, shares and reserves."""

from __future__ import annotations

import pytest

from rtp_core.errors import ConfigError
from rtp_core.memory.budget import MemoryBudget, format_bytes, parse_bytes


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("1048576", 1 << 20),
        ("12B", 12),
        ("4GiB", 4 << 30),
        ("4gib", 4 << 30),
        ("512M", 512 << 20),
        ("1.5 GB", 1_500_000_000),
        ("2TiB", 2 << 40),
        ("1k", 1024),
    ],
)
def test_sizes_are_bytes(text: str, nbytes: int) -> None:
    assert parse_bytes(text) == nbytes


@pytest.mark.parametrize("text", ["", "GiB", "-1", "1e9", "4 Gigs", "1..5G", "9" * 40, "nan", "4iB"])
def test_other_sizes_are_errors(text: str) -> None:
    with pytest.raises(ConfigError, match="bad size"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("given", "free", "nbytes"),
    [
        (1 << 30, 5, 1 << 30),
        ("4GiB", 5, 4 << 30),
        (0.25, 1 << 30, 256 << 20),
        ("50%", 1000, 500),
        ("12.5 %", 1000, 125),
        (1.0, 77, 77),
        ("all-2GiB", 5 << 30, 3 << 30),
        ("ALL - 1k", 2048, 1024),
    ],
)
def test_a_budget_is_bytes_a_share_or_all_but_a_reserve(given: int | float | str, free: int, nbytes: int) -> None:
    assert MemoryBudget.parse(given).of(free) == nbytes


@pytest.mark.parametrize(
    "given", [0, -1, True, 0.0, 1.5, -0.5, float("nan"), "0", "0%", "101%", "-2GiB", "all", "all-", "half", "", "1e9"]
)
def test_a_budget_of_nothing_or_nonsense_is_one_error(given: int | float | str) -> None:
    with pytest.raises(ConfigError, match=r"memory_budget is .*: expected bytes above 0"):
        MemoryBudget.parse(given)


def test_a_reserve_of_all_that_is_free_leaves_nothing() -> None:
    with pytest.raises(ConfigError, match=r"leaves -1024 bytes: 1.0 KiB are free \(give a smaller reserve\)"):
        MemoryBudget.parse("all-2k").of(1024)


@pytest.mark.parametrize(
    ("nbytes", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 40, "5.0 TiB"), (84 << 20, "84.0 MiB")]
)
def test_bytes_for_people(nbytes: int, text: str) -> None:
    assert format_bytes(nbytes) == text
