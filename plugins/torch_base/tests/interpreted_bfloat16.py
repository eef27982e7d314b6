"""bfloat16 in Triton's interpreter, mended: as of 3.9 it multiplies the type's bits as whole numbers, casts integers to
such bits, and cuts off what a GPU rounds to nearest even."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle


def _wide(x: TensorHandle) -> TensorHandle:
    if x.dtype.scalar != tl.bfloat16:
        return x
    return TensorHandle(x.data.view(ml_dtypes.bfloat16).astype(np.float32), tl.float32)


def mend(monkeypatch: pytest.MonkeyPatch) -> None:
    cast, dot = InterpreterBuilder.cast_impl, InterpreterBuilder.create_dot

    def rounding_cast(self: InterpreterBuilder, x: TensorHandle, to: tl.dtype) -> TensorHandle:
        if to.scalar != tl.bfloat16:
            return cast(self, _wide(x), to)
        bits = _wide(x).data.astype(np.float32).astype(ml_dtypes.bfloat16).view(np.uint16)
        return TensorHandle(bits, tl.bfloat16)

    def wide_dot(self: InterpreterBuilder, a: TensorHandle, b: TensorHandle, *rest: Any) -> TensorHandle:
        return dot(self, _wide(a), _wide(b), *rest)

    monkeypatch.setattr(InterpreterBuilder, "cast_impl", rounding_cast)
    monkeypatch.setattr(InterpreterBuilder, "create_dot", wide_dot)
