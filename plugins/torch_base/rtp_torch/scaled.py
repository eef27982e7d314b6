"""Products of codes of 8 bits as they are, by the units that hardware has for them: each row has one scale.

The rows of the other operand are quantized to the same codes on the way. torch's functions for it take some sizes only.
Source: _int_mm_out_cuda and _scaled_mm_out_cuda, in torch's aten/src/ATen/native/cuda.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rtp_torch import failures, matmul

Room = Callable[..., Tensor]  # (shape, dtype = float32): a Scratch, or what stands for one

LARGEST = {torch.int8: 127, torch.float8_e4m3fn: 448}
_UNIT = {torch.int8: 8, torch.float8_e4m3fn: 16}  # what rows and columns of the weight are multiples of
_LEAST_ROWS = {torch.int8: 32, torch.float8_e4m3fn: 0}  # for int8 torch wants more than 16
_LONGEST = {torch.int8: 1 << 17, torch.float8_e4m3fn: 1 << 31}  # columns whose sum int32 holds
_LEAST = torch.finfo(torch.float32).tiny


def fits(a: Tensor, codes: Tensor) -> bool:
    """Whether torch takes these sizes. a: [..., M, K]; codes: [N, K]."""
    (rows, columns), unit = codes.shape, _UNIT[codes.dtype]
    return bool(a.ndim == 2 and rows % unit == columns % unit == 0 < columns <= _LONGEST[codes.dtype])


def gemm(a: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None, out: Tensor, scratch: Room) -> None:
    """out = a @ (codes * scales).T + bias, for what fits. scales: float32 [N, 1]."""
    rows = len(a)
    if not rows:
        return
    x = scratch((max(rows, _LEAST_ROWS[codes.dtype]), codes.shape[1]), codes.dtype)  # of rows past the last any codes
    x_scales = quantize_rows(a, x[:rows], scratch)
    multiply = _multiply_int8 if codes.dtype == torch.int8 else _multiply_float8
    multiply(x, x_scales, codes, scales, bias, out, scratch)


def quantize_rows(x: Tensor, codes: Tensor, scratch: Room) -> Tensor:
    """Write the codes of x [M, K], of which a row's largest stands for its peak. Returns the scales, float32 [M, 1]."""
    scales = scratch((len(x), 1))
    torch.linalg.vector_norm(x, torch.inf, dim=-1, keepdim=True, dtype=torch.float32, out=scales)
    scales.div_(LARGEST[codes.dtype]).clamp_min_(_LEAST)
    pieces = list(matmul.blocks(len(x), x.shape[1] * torch.float32.itemsize))
    room = scratch((pieces[0][1], x.shape[1]))
    for start, stop in pieces:
        exact = torch.div(x[start:stop], scales[start:stop], out=room[: stop - start])
        codes[start:stop].copy_(exact if codes.dtype.is_floating_point else exact.round_())
    return scales


def _multiply_int8(
    x: Tensor, x_scales: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None, out: Tensor, scratch: Room
) -> None:
    """Some columns of the result at a time. Fewer rows take no more room, though more of their columns fit into it."""
    rows, unit, column_bytes = len(out), _UNIT[codes.dtype], len(x) * torch.int32.itemsize
    room = min(len(codes) * column_bytes, max(unit * column_bytes, matmul.BLOCK_BYTES)) // torch.int32.itemsize
    sums, floats = scratch((room,), torch.int32), scratch((room,))
    for start, stop in matmul.blocks(len(codes), column_bytes, unit=unit):
        columns, part, w_scales = stop - start, out[:, start:stop], scales[start:stop].t()
        product = sums[: len(x) * columns].view(len(x), columns)
        torch._int_mm(x, codes[start:stop].t(), out=product)
        scaled = torch.mul(product[:rows], x_scales, out=floats[: rows * columns].view(rows, columns))
        if bias is None:
            torch.mul(scaled, w_scales, out=part)
        else:
            torch.addcmul(bias[start:stop], scaled, w_scales, out=part)


def _multiply_float8(
    x: Tensor, x_scales: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None, out: Tensor, scratch: Room
) -> None:
    """bfloat16 is what torch gives with a scale a row: it has more bits than the operands had."""
    is_direct = out.dtype == torch.bfloat16 and out.is_contiguous()
    result = out if is_direct else scratch(out.shape, torch.bfloat16)
    if not x.is_meta:  # torch can tell no shapes of it, and they are known
        torch._scaled_mm(x, codes.t(), x_scales, scales.t(), out_dtype=torch.bfloat16, out=result)
    if bias is not None:
        torch.add(result, bias, out=out)
    elif not is_direct:
        out.copy_(result)


def is_served(codes: torch.dtype, device: torch.device) -> bool:
    """Whether torch multiplies such codes there. It is found out by doing it: that depends on the GPU, on torch's
    version and on what it was built for."""

    def room(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    ones, out = torch.ones(32, 32, device=device), room((32, 32), torch.bfloat16)
    try:
        gemm(ones, ones.to(codes), ones[:, :1].contiguous(), None, out, room)
    except (RuntimeError, ValueError) as error:  # ValueError: another float8 than this GPU's
        if failures.is_known(error):
            raise
        return False
    return bool(((out - 32).abs() < 1).all())
