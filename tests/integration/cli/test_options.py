"""Sizes in words, and options declared by dataclasses."""

from __future__ import annotations

import pytest

from rtp_core.cli.options import EngineOptions, parse_bytes
from rtp_core.engine.engine_config import EngineConfig
from rtp_core.errors import ConfigError


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


def test_engine_options_are_those_of_the_engine() -> None:
    assert EngineConfig(**EngineOptions().config()) == EngineConfig()
    options = EngineOptions(disable_impl=["a.b"], memory_budget="2MiB", threads=2)
    assert EngineConfig(**options.config()) == EngineConfig(disable_impl=("a.b",), memory_budget=2 << 20, threads=2)
