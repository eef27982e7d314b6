"""rtp: LLM inference on any hardware whose vendor publishes a plugin.

Importing this package imports no plugin, and nothing heavy before a name is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "EmbeddingOutput": "rtp_core.request",
    "LLM": "rtp_core.engine.llm",
    "RequestOutput": "rtp_core.request",
    "RtpError": "rtp_core.errors",
    "SamplingParams": "rtp_core.request",
}
__all__ = ["LLM", "EmbeddingOutput", "RequestOutput", "RtpError", "SamplingParams", "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
