"""Primitives on loan: right on memory that the host cannot address, counted, and given back one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest

from rtp_core.device.borrowed import WRITING_ORDER, borrowed_notice, still_borrowed
from rtp_core.device.plan import Demand, resolve
from rtp_core.device.reference import ReferenceDevice
from rtp_core.memory.qbuffer import SCHEMES
from rtp_core.plugin import (
    ACTIVATIONS,
    PLUGIN_API,
    PRIMITIVES,
    Q8_0,
    BorrowedPrimitives,
    Buffer,
    ContractError,
    Device,
    Manifest,
    MemorySpace,
    QBuffer,
    Region,
    dtypes,
    reserve_host,
)

MakeDevice = Callable[..., Device]
BASE = 1 << 44


class Loan(BorrowedPrimitives):
    """Memory behind handles, and nothing else of its own."""

    manifest: ClassVar[Manifest] = Manifest(
        kind="loan", vendor="test", api=PLUGIN_API, device_class="accelerator", dtypes=("float32", "float16")
    )
    space = MemorySpace("loan:0", host_addressable=False)

    def reserve(self, nbytes: int) -> Region:
        self._memory = reserve_host(nbytes)
        return Region(self.space, BASE, nbytes)

    def copy(self, dst: Buffer, src: Buffer) -> None:
        self._see(dst)[...] = self._see(src)

    def _see(self, x: Buffer) -> np.ndarray[Any, Any]:
        if x.space.host_addressable:
            return x.numpy()
        strides = [stride * x.dtype.itemsize for stride in x.strides]
        return np.ndarray(x.shape, x.dtype.numpy, self._memory.bytes, x.address - BASE, strides)


class Adder(Loan):
    """Has written its first primitive."""

    manifest: ClassVar[Manifest] = Loan.manifest

    def add(self, a: Buffer, b: Buffer, *, out: Buffer | None = None) -> Buffer:
        out = self.alloc(a.shape, a.dtype, "add") if out is None else out
        np.add(self._see(a), self._see(b), out=self._see(out))
        return out


class Both:
    """The same call on two devices: operands go up, results come down and must be equal bit for bit."""

    def __init__(self, *devices: Device) -> None:
        self.devices = devices
        self.rng = np.random.default_rng(7)

    def check(self, op: str, *operands: Any, **options: Any) -> None:
        results = []
        for device in self.devices:
            lift = lambda x, device=device: self._lift(device, x)  # noqa: E731
            arguments = {name: lift(value) for name, value in options.items()}
            given = [lift(x) for x in operands]
            result = getattr(device, op)(*given, **arguments)
            parts = given[:1] if result is None else result if isinstance(result, tuple) else [result]
            flat = [p for part in parts for p in (part.parts if isinstance(part, QBuffer) else (part,))]
            results.append([device.download(part) for part in flat])
        for first, second in zip(*results, strict=True):
            assert first.dtype == second.dtype
            np.testing.assert_array_equal(first, second)

    def normal(self, *shape: int) -> np.ndarray[Any, Any]:
        return self.rng.standard_normal(shape).astype(np.float32)

    def _lift(self, device: Device, x: Any) -> Any:
        if isinstance(x, np.ndarray):  # into rows of a wider buffer, so that nothing is contiguous by luck
            if x.ndim < 2:
                return device.upload(x, "operand")
            wide = device.upload(np.concatenate([x, x], axis=-1), "operand")
            return wide[(*[slice(None)] * (x.ndim - 1), slice(0, x.shape[-1]))]
        if isinstance(x, tuple) and isinstance(x[0], np.ndarray):
            return device.quantize(device.upload(x[0], "operand"), x[1])
        return x


@pytest.fixture
def both(make_device: MakeDevice) -> Both:
    return Both(make_device(ReferenceDevice), make_device(Loan))


def test_elementwise_and_row_ops_are_the_references(both: Both) -> None:
    x, y, row = both.normal(3, 8), both.normal(3, 8), both.normal(8)
    for op in ("add", "mul"):
        for other in (y, row, both.normal(3, 1)):
            both.check(op, x, other)
    for kind in ACTIVATIONS:
        both.check("activation", x, kind=kind)
    both.check("rms_norm", x, row, eps=1e-5)
    both.check("layer_norm", x, row, both.normal(8), eps=1e-5)
    both.check("cast", x * 100, dtypes.float16)
    both.check("cast", x, dtypes.bfloat16)
    both.check("top_k", x, 3)
    mask = np.where(both.normal(3, 8) > 0, 0, -np.inf).astype(np.float32)
    both.check("softmax", both.normal(2, 3, 8), scale=0.5, softcap=2.0, mask=mask)


def test_products_gathers_and_rotations_are_the_references(both: Both) -> None:
    both.check("gemm", both.normal(2, 3, 8), both.normal(1, 8, 5), bias=both.normal(5))
    both.check("gemm", both.normal(3, 8), both.normal(5, 8), trans_b=True)
    both.check("gather_rows", both.normal(6, 8), np.array([5, 0, 5], np.int32))
    angles = both.normal(9, 2)
    both.check("rope", both.normal(3, 2, 6), np.cos(angles), np.sin(angles), np.array([8, 0, 3], np.int32))


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=lambda s: s.name)
def test_quantized_operands_are_the_references(both: Both, scheme: Any) -> None:
    columns = 2 * scheme.unit
    weight = (both.normal(4, columns), scheme)
    both.check("quantize", both.normal(4, columns), scheme)
    both.check("dequantize", weight, dtype=dtypes.float16)
    both.check("gemm", both.normal(3, columns), weight, trans_b=True)
    both.check("gather_rows", weight, np.array([3, 0], np.int32), dtype=dtypes.float32)


def test_blocks_of_kv_are_the_references(both: Both) -> None:
    cache = both.normal(5, 2, 2, 4, 8)
    k, v = both.normal(3, 2, 8), both.normal(3, 2, 8)
    both.check("kv_write", cache, k, v, np.array([19, 0, 6], np.int32))
    both.check("kv_gather", cache, np.array([4, 1, 0], np.int32), 7)
    both.check("kv_gather", cache, np.array([2], np.int32), 4)


def test_out_may_be_the_input_and_strided(make_device: MakeDevice) -> None:
    device = make_device(Loan)
    numbers = np.arange(12, dtype=np.float32).reshape(3, 4)
    x = device.upload(numbers, "x")
    view = x[:, 1:3]
    assert device.add(view, view, out=view) is view
    expected = numbers.copy()
    expected[:, 1:3] *= 2
    np.testing.assert_array_equal(device.download(x), expected)


def test_a_layout_of_its_own_needs_primitives_of_its_own(make_device: MakeDevice) -> None:
    device = make_device(Loan)
    plain = device.quantize(device.upload(np.ones((2, 32), np.float32), "x"), Q8_0)
    prepared = QBuffer(plain.scheme, (2, 32), *plain.parts, layout="loan.tiles")
    with pytest.raises(ContractError, match=r"loan cannot read layout 'loan\.tiles'.*rtp plugin todo loan"):
        device.gemm(device.upload(np.ones((1, 32), np.float32), "x"), prepared, trans_b=True)


def test_the_order_to_write_them_in_has_every_primitive_once() -> None:
    assert sorted(WRITING_ORDER) == sorted(PRIMITIVES)


def test_what_a_subclass_defines_is_no_longer_borrowed(make_device: MakeDevice) -> None:
    assert still_borrowed(Loan) == WRITING_ORDER
    assert still_borrowed(Adder) == WRITING_ORDER[1:]
    assert still_borrowed(ReferenceDevice) == ()
    assert borrowed_notice(make_device(ReferenceDevice)) == ""
    notice = borrowed_notice(make_device(Adder))
    assert notice.startswith("loan: 14 of 15 primitives are borrowed") and "add," not in notice


def test_the_plan_says_what_is_borrowed(make_device: MakeDevice) -> None:
    rows = resolve(make_device(Adder), Demand("float32")).rows
    sources = {row.op: row.source for row in rows}
    assert sources["add"] == "primitive"
    assert {sources[op] for op in WRITING_ORDER[1:]} == {"borrowed"}


def test_a_mixin_beside_device_is_the_same() -> None:
    class Explicit(BorrowedPrimitives, Device):
        manifest: ClassVar[Manifest] = Loan.manifest

    assert len(Explicit.borrowed) == len(PRIMITIVES)


def test_a_redefined_primitive_with_wrong_parameters_is_refused() -> None:
    with pytest.raises(ContractError, match=r"add: expected parameters \('a', 'b', 'out'\)"):
        type("Wrong", (Loan,), {"add": lambda self, left, right, *, out=None: out, "manifest": Loan.manifest})
