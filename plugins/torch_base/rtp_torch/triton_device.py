"""A TorchDevice whose composites are kernels in Triton, where there are such: one launch instead of several of torch's.

What a kernel needs beside its operands it takes from the arena before the launch, so a rehearsal counts it, too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rtp_core.plugin import (
    YES,
    AttentionBatch,
    AttentionWeights,
    Buffer,
    DeviceError,
    No,
    Norm,
    QBuffer,
    Shape,
    Signature,
    Yes,
    dtypes,
    overrides,
)
from rtp_torch import packed, packed_arrays
from rtp_torch.device import TorchDevice
from rtp_torch.kernels import packed_gemm, sample
from rtp_torch.kernels.add_norm import add_norm
from rtp_torch.kernels.context_attention import context_attention
from rtp_torch.kernels.decode_attention import decoder_self_attention, num_splits, scratch_size
from rtp_torch.kernels.gated_activation import gated_activation
from rtp_torch.kernels.grouped_gemm import are_alike, grouped_gemm, weight_addresses
from rtp_torch.kernels.packed_weight import PackedWeight
from rtp_torch.kernels.rope_kv_write import rope_kv_write
from rtp_torch.matmul import blocks
from rtp_torch.quantized import StoredWeight

WIDEST_ROW = 1 << 15  # elements that the registers of one program hold
HEAD_DIMS = range(9, 257)  # that attention has tiles for: matrix instructions take 16 at least


def _row_fits(signature: Signature) -> Yes | No:
    width = signature.dims["hidden_size"]
    return YES if width <= WIDEST_ROW else No(f"a row of {width} elements is wider than {WIDEST_ROW}")


def _head_fits(signature: Signature) -> Yes | No:
    dim = signature.dims["head_dim"]
    if dim in HEAD_DIMS:
        return YES
    return No(f"heads of {dim} elements: its tiles are for {HEAD_DIMS.start} to {HEAD_DIMS.stop - 1}")


def _has_floats(signature: Signature) -> Yes | No:
    scheme = signature.scheme
    return YES if scheme == "none" else No(f"its weights are {scheme}: each group is a product of its own")


def _misfit(op: str, *operands: Buffer | None) -> DeviceError:
    """Said before a launch: a kernel reads and writes where it is told to."""
    got = ", ".join(repr(x) for x in operands if x is not None)
    return DeviceError(f"{op} cannot take these operands", why=f"got {got}")


def _differs(x: Buffer | None, shape: Shape) -> bool:
    return x is not None and x.shape != shape


def _has_whole_rows(*operands: Buffer | None) -> bool:
    return all(x is None or x.strides[-1] == 1 for x in operands)


class TritonDevice(TorchDevice):
    """Registers nothing, as its base does not."""

    # -- packed weights ------------------------------------------------------------------------------------------

    def prepare_weight(self, weight: Buffer, tag: str) -> Buffer:
        if not isinstance(weight, QBuffer) or weight.layout != "plain" or not packed.fits(weight.scheme):
            return super().prepare_weight(weight, tag)
        rows, columns = weight.shape
        parts = [self.alloc(*form, tag) for form in packed.forms(weight.scheme, rows, columns).values()]
        result = QBuffer.of_parts(weight.scheme, (rows, columns), parts, layout=packed.LAYOUT)
        for start, stop in blocks(rows, weight.nbytes // max(1, rows)):
            self._pack(weight[start:stop], self._packed(result).rows(start, stop))
        return result

    def _pack(self, plain: QBuffer, into: PackedWeight) -> None:
        """On the device, which turns a weight faster than the host."""
        brought = [self._bring(part, "prepare_weight") for part in plain.parts]
        stored = self._stored(QBuffer.of_parts(plain.scheme, (plain.shape[0], plain.shape[1]), brought))
        packed.pack(stored, into, self._scratch("prepare_weight"))

    def _packed(self, x: QBuffer) -> PackedWeight:
        return packed.weight_of(x.scheme, x.shape[1], {name: self._see(part) for name, part in x.named_parts.items()})

    def _stored(self, x: QBuffer) -> StoredWeight:
        return packed.PackedRows.of(self._packed(x), x.scheme) if x.layout == packed.LAYOUT else super()._stored(x)

    def gemm(
        self, a: Buffer, b: Buffer, *, bias: Buffer | None = None, trans_b: bool = False, out: Buffer | None = None
    ) -> Buffer:
        if not isinstance(b, QBuffer) or b.layout != packed.LAYOUT or not trans_b:
            return super().gemm(a, b, bias=bias, trans_b=trans_b, out=out)
        n, k = b.shape
        if a.shape[-1] != k or _differs(bias, (n,)) or _differs(out, (*a.shape[:-1], n)):
            raise _misfit("gemm", a, b, bias, out)
        if len(a.shape) != 2 or a.shape[0] > packed_gemm.FEW_ROWS or not _has_whole_rows(a, bias, out):
            return super().gemm(a, b, bias=bias, trans_b=True, out=out)
        rows, weight, is_narrow = a.shape[0], self._packed(b), self._accelerator.is_narrow
        out = self.alloc((rows, n), a.dtype, "gemm") if out is None else out
        splits = packed_gemm.num_splits(rows, weight, self._accelerator.processors, narrow=is_narrow)
        scratch = self._scratch("gemm")
        self._launch(
            packed_gemm.packed_gemm,
            writes=("scratch", "out"),
            x=self._see(a),
            weight=weight,
            bias=None if bias is None else self._see(bias),
            splits=splits,
            scratch=scratch((packed_gemm.scratch_size(rows, weight, splits),)),
            out=self._see(out),
            narrow=is_narrow,
        )
        return out

    # -- composites ----------------------------------------------------------------------------------------------

    @overrides("add_norm", impl="triton.add_norm", handles={"layer_norm"}, when=_row_fits)
    def _add_norm(self, x: Buffer, residual: Buffer, norm: Norm, *, out: Buffer | None = None) -> tuple[Buffer, Buffer]:
        out = self.alloc(x.shape, x.dtype, "add_norm") if out is None else out
        self._launch(
            add_norm,
            writes=("residual", "out"),
            x=self._see(x),
            residual=self._see(residual),
            weight=self._see(norm.weight),
            bias=None if norm.bias is None else self._see(norm.bias),
            eps=norm.eps,
            out=self._see(out),
        )
        return out, residual

    @overrides("gated_activation", impl="triton.gated_activation")
    def _gated_activation(self, x: Buffer, *, kind: str, out: Buffer | None = None) -> Buffer:
        out = self.alloc((x.shape[0], x.shape[1] // 2), x.dtype, "gated_activation") if out is None else out
        self._launch(gated_activation, writes=("out",), x=self._see(x), kind=kind, out=self._see(out))
        return out

    @overrides("grouped_gemm", impl="triton.grouped_gemm", when=_has_floats)
    def _grouped_gemm(
        self, x: Buffer, weights: tuple[Buffer, ...], group_sizes: tuple[int, ...], *, out: Buffer | None = None
    ) -> Buffer:
        """Where weights lie and groups begin goes to the device in one copy: a step with this is not recorded."""
        is_plain = not any(isinstance(weight, QBuffer) for weight in weights) and _has_whole_rows(x, out, *weights)
        seen = tuple(self._see(weight) for weight in weights) if is_plain else ()
        if not are_alike(seen):
            return super().grouped_gemm(x, weights, group_sizes, out=out)
        (rows, width), columns = x.shape, weights[0].shape[0]
        starts = np.cumsum((0, *group_sizes), dtype=np.int32)
        has_sizes = len(group_sizes) == len(weights) and starts[-1] == rows
        if not has_sizes or weights[0].shape[1] != width or _differs(out, (rows, columns)):
            raise _misfit(f"grouped_gemm of groups of {group_sizes} rows", x, weights[0], out)
        out = self.alloc((rows, columns), x.dtype, "grouped_gemm") if out is None else out
        given = weight_addresses(seen), starts
        arrays = self.upload(packed_arrays.pack(given), "grouped_gemm")
        addresses, group_starts = packed_arrays.unpack(self._see(arrays), given)
        self._launch(
            grouped_gemm,
            writes=("out",),
            x=self._see(x),
            weights=seen,
            addresses=addresses,
            group_starts=group_starts,
            out=self._see(out),
            narrow=self._accelerator.is_narrow,
        )
        return out

    @overrides("rope_kv_write", impl="triton.rope_kv_write")
    def _rope_kv_write(
        self, q: Buffer, k: Buffer, v: Buffer, kv: Buffer, weights: AttentionWeights, batch: AttentionBatch
    ) -> Buffer:
        rope = weights.rope
        self._launch(
            rope_kv_write,
            writes=("q", "k", "kv"),
            q=self._see(q),
            k=self._see(k),
            v=self._see(v),
            kv=self._see(kv),
            slots=self._see(batch.slots),
            positions=self._see(batch.positions),
            tables=None if rope is None else (self._see(rope.cos), self._see(rope.sin)),
        )
        return q

    @overrides("context_attention", impl="triton.context_attention", when=_head_fits)
    def _context_attention(
        self, q: Buffer, kv: Buffer, batch: AttentionBatch, *, scale: float, out: Buffer | None = None
    ) -> Buffer:
        out, first = self.alloc(q.shape, q.dtype, "context_attention") if out is None else out, batch.num_decode
        self._launch(
            context_attention,
            writes=("out",),
            q=self._see(q),
            kv=self._see(kv),
            block_tables=self._see(batch.block_tables[first:]),
            context_lens=self._see(batch.device_context_lens[first:]),
            query_starts=self._see(batch.device_query_starts[first:]),
            scale=scale,
            out=self._see(out),
            narrow=self._accelerator.is_narrow,
        )
        return out

    @overrides("decoder_self_attention", impl="triton.decoder_self_attention", when=_head_fits)
    def _decoder_self_attention(
        self, q: Buffer, kv: Buffer, batch: AttentionBatch, *, scale: float, out: Buffer | None = None
    ) -> Buffer:
        """Lengths stay on the device; how many splits are worth while follows from what the tables have room for."""
        out = self.alloc(q.shape, q.dtype, "decoder_self_attention") if out is None else out
        requests, heads, head_dim = q.shape
        room = batch.block_tables.shape[1] * kv.shape[3]
        splits = num_splits(requests, kv.shape[2], room, self._accelerator.processors)
        scratch = self._scratch("decoder_self_attention")
        self._launch(
            decoder_self_attention,
            writes=("scratch", "out"),
            q=self._see(q),
            kv=self._see(kv),
            block_tables=self._see(batch.block_tables[:requests]),
            context_lens=self._see(batch.device_context_lens[:requests]),
            scale=scale,
            splits=splits,
            scratch=scratch((scratch_size(requests, heads, head_dim, splits),)),
            out=self._see(out),
            narrow=self._accelerator.is_narrow,
        )
        return out

    @overrides("sample", impl="triton.sample")
    def _sample(
        self,
        logits: Buffer,
        *,
        temperature: NDArray[np.float32],
        top_k: NDArray[np.int64],
        top_p: NDArray[np.float32],
        min_p: NDArray[np.float32],
        uniforms: NDArray[np.float64],
    ) -> NDArray[np.int64]:
        """Only peaks and ids come to the host. What the definition refuses it refuses itself, with its own error."""
        rows, tiles = logits.shape[0], sample.num_tiles(logits.shape[1])
        chosen = self.alloc((2, rows), dtypes.int32, "sample")
        found = self._see(chosen)
        peaks, ids, scratch = found[0].view(torch.float32), found[1], self._scratch("sample")
        self._launch(
            sample.argmax,
            writes=("tile_peaks", "tile_ids", "peaks", "ids"),
            logits=self._see(logits),
            tile_peaks=scratch((rows, tiles)),
            tile_ids=scratch((rows, tiles), torch.int32),
            peaks=peaks,
            ids=ids,
        )
        if (temperature > 0).any():
            given: dict[str, NDArray[Any]] = {
                "temperature": temperature,
                "top_k": top_k,
                "top_p": top_p,
                "min_p": min_p,
                "uniforms": uniforms,
            }
            packed = self.upload(packed_arrays.pack(given.values()), "sample")
            tensors = dict(zip(given, packed_arrays.unpack(self._see(packed), given.values()), strict=True))
            self._launch(sample.draw, writes=("ids",), logits=self._see(logits), peaks=peaks, ids=ids, **tensors)
        on_host = self.download(chosen)
        if not np.isfinite(on_host[0].view(np.float32)).all():
            return super().sample(
                logits, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, uniforms=uniforms
            )
        token_ids: NDArray[np.int64] = on_host[1].astype(np.int64)
        return token_ids
