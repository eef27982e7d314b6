"""The peer on torch: a static cache, emptied and used again, tells the tokens of one that grows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from comparison import run_transformers
from comparison.run_transformers import Step, compiled, empty_caches, load, measure, step

CELL = {"name": "decode-b2", "kind": "decode", "batch": 2, "prompt": 5, "output": 9}


@pytest.fixture
def model(folder: Path) -> torch.nn.Module:
    return load(folder, "float32", "sdpa", is_encoder=False)


@pytest.fixture
def asked_to_compile(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What torch.compile was asked for, which leaves the step as it is: compiling takes longer than all tests here."""
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(torch, "compile", lambda step, **options: (asked.append(options), step)[1])
    return asked


@torch.no_grad()
def _tokens(model: torch.nn.Module, decode: Step, cache: object, ids: torch.Tensor) -> list[list[int]]:
    tokens = [step(model, ids, cache)]
    for _ in range(CELL["output"] - 1):
        tokens.append(decode(model, tokens[-1], cache))
    return torch.cat(tokens, 1).tolist()


def test_a_static_cache_is_used_again_and_tells_the_same(
    model: torch.nn.Module, asked_to_compile: list[dict[str, Any]]
) -> None:
    decode, static = compiled(step), empty_caches(model, CELL, is_static=True)
    growing = empty_caches(model, CELL, is_static=False)
    random = torch.Generator().manual_seed(0)
    for _ in range(2):
        ids = torch.randint(0, model.config.vocab_size, (CELL["batch"], CELL["prompt"]), generator=random)
        assert _tokens(model, decode, static(), ids) == _tokens(model, step, growing(), ids)
    assert static() is static() and growing() is not growing()
    assert [options["mode"] for options in asked_to_compile] == ["reduce-overhead"]


@pytest.mark.parametrize("is_compiled", [False, True])
@torch.no_grad()
def test_a_cell_is_warmed_up_then_repeated(
    model: torch.nn.Module,
    is_compiled: bool,
    monkeypatch: pytest.MonkeyPatch,
    asked_to_compile: list[dict[str, Any]],
) -> None:
    calls = []

    def noted(model: torch.nn.Module, ids: torch.Tensor, cache: object) -> torch.Tensor:
        calls.append(ids.shape)
        return step(model, ids, cache)

    monkeypatch.setattr(run_transformers, "step", noted)
    assert measure(model, CELL, 2, is_compiled=is_compiled) > 0
    prompt, token = torch.Size((2, 5)), torch.Size((2, 1))
    assert calls == [prompt, *[token] * 4, *[prompt, *[token] * 8] * 2]
    assert len(asked_to_compile) == is_compiled
