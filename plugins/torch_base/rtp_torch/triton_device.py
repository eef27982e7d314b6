"""A TorchDevice whose composites are kernels in Triton, where there are such: one launch instead of several of torch's.

What a kernel needs beside its operands it takes from the arena before the launch, so a rehearsal counts it, too.
"""

from __future__ import annotations

from rtp_core.plugin import YES, Buffer, No, Norm, Signature, Yes, overrides
from rtp_torch.device import TorchDevice
from rtp_torch.kernels.add_norm import add_norm
from rtp_torch.kernels.gated_activation import gated_activation

WIDEST_ROW = 1 << 15  # elements that the registers of one program hold


def _row_fits(signature: Signature) -> Yes | No:
    width = signature.dims["hidden_size"]
    return YES if width <= WIDEST_ROW else No(f"a row of {width} elements is wider than {WIDEST_ROW}")


class TritonDevice(TorchDevice):
    """Registers nothing, as its base does not."""

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
