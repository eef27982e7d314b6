"""One oracle and one engine per device for the whole session: loading is the slow part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import model_of_gguf

from rtp_core import LLM

TEXTS = Path(__file__).parent.parent / "data" / "texts"
# The float32 model takes 540 MiB. A device that cannot rehearse runs its worst steps at a start: they are not large.
LIMITS: dict[str, Any] = {
    "max_model_len": 1024,
    "max_num_seqs": 32,
    "max_num_batched_tokens": 256,
    "memory_budget": 3 << 30,
}

OpenModel = Callable[[str, str], LLM]


@pytest.fixture(scope="session")
def oracle_model(default_model_path: Path) -> torch.nn.Module:
    torch.set_num_threads(2)
    return model_of_gguf(default_model_path)


@pytest.fixture(scope="session")
def open_model(default_model_path: Path) -> Iterator[OpenModel]:
    """The default model on a device under a dtype, opened once."""
    opened: dict[tuple[str, str], LLM] = {}

    def get(device: str, dtype: str) -> LLM:
        if (device, dtype) not in opened:
            opened[device, dtype] = LLM(str(default_model_path), device=device, dtype=dtype, **LIMITS)
        return opened[device, dtype]

    yield get
    for llm in opened.values():
        llm.close()


@pytest.fixture(scope="session")
def texts() -> dict[str, str]:
    """Three texts of more than 200 tokens: English, Python source, mixed scripts."""
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(TEXTS.glob("*.txt"))}
