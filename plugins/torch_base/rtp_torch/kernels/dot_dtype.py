"""In which type two operands are multiplied."""

from __future__ import annotations

import torch
import triton.language as tl

TRITON = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


def dot_dtype(a: torch.dtype, b: torch.dtype) -> tl.dtype:
    """Their own, or float32 where they differ, which holds either."""
    return TRITON[a] if a == b else tl.float32
