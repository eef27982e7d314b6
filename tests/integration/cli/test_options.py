"""Options declared by dataclasses."""

from __future__ import annotations

from rtp_core.cli.options import EngineOptions
from rtp_core.engine.engine_config import EngineConfig


def test_engine_options_are_those_of_the_engine() -> None:
    assert EngineConfig(**EngineOptions().config()) == EngineConfig()
    options = EngineOptions(disable_impl=["a.b"], memory_budget="2MiB", threads=2)
    assert EngineConfig(**options.config()) == EngineConfig(disable_impl=("a.b",), memory_budget="2MiB", threads=2)
    assert EngineConfig(**EngineOptions(enforce_eager=True).config()) == EngineConfig(enforce_eager=True)
