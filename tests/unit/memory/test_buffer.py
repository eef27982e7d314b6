"""Buffers against NumPy: the same views must show the same elements."""

from __future__ import annotations

import gc
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from rtp_core import dtypes
from rtp_core.errors import ConfigError, MemorySpaceError
from rtp_core.memory.arena import Arena
from rtp_core.memory.buffer import Buffer, contiguous_strides
from rtp_core.memory.space import MemorySpace, Region, reserve_host

quick = settings(max_examples=200, deadline=None, derandomize=True)

shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)
solid_shapes = st.lists(st.sampled_from([1, 1, 2, 3, 4, 6]), max_size=4).map(tuple)


def numbered(shape: tuple[int, ...]) -> tuple[Buffer, np.ndarray[Any, Any]]:
    array = np.arange(int(np.prod(shape)), dtype=np.int32).reshape(shape)
    return Buffer.borrow(array), array


def assert_same(buffer: Buffer, array: np.ndarray[Any, Any]) -> None:
    assert buffer.shape == array.shape
    assert buffer.size == array.size
    assert buffer.nbytes == array.nbytes
    np.testing.assert_array_equal(buffer.numpy(), array)


@st.composite
def keys(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[int | slice, ...]:
    result: list[int | slice] = []
    for extent in shape[: draw(st.integers(0, len(shape)))]:
        if extent and draw(st.booleans()):
            result.append(draw(st.integers(-extent, extent - 1)))
        else:
            bound = st.none() | st.integers(-7, 7)
            result.append(slice(draw(bound), draw(bound), draw(st.none() | st.integers(1, 3))))
    return tuple(result)


@st.composite
def strided(draw: st.DrawFn, shape: st.SearchStrategy[tuple[int, ...]]) -> tuple[Buffer, np.ndarray[Any, Any]]:
    """A buffer and an array, sliced and transposed alike."""
    buffer, array = numbered(draw(shape))
    for _ in range(draw(st.integers(0, 3))):
        if draw(st.booleans()):
            key = draw(keys(array.shape))
            buffer, array = buffer[key], array[(*key, ...)]  # the dots keep a scalar a view
        else:
            axes = draw(st.permutations(range(array.ndim)))
            buffer, array = buffer.transpose(*axes), array.transpose(axes)
    return buffer, array


@quick
@given(strided(shapes))
def test_slices_and_transposes_show_what_numpy_shows(pair: tuple[Buffer, np.ndarray[Any, Any]]) -> None:
    buffer, array = pair
    assert_same(buffer, array)
    if array.size:
        assert buffer.address == array.__array_interface__["data"][0]


@quick
@given(st.data())
def test_view_shows_the_same_elements_in_order_or_says_that_it_needs_a_copy(data: st.DataObject) -> None:
    buffer, array = data.draw(strided(solid_shapes))
    target = data.draw(regrouped(array.shape))
    expected = array.reshape(target)
    if array.size and not np.shares_memory(expected, array):
        with pytest.raises(ConfigError, match="need a copy"):
            buffer.view(*target)
    else:
        assert_same(buffer.view(*target), expected)


@st.composite
def regrouped(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Another shape with as many elements: its factors dealt out again, with some ones between them."""
    size = int(np.prod(shape))
    result: list[int] = [] if size else [0]
    while size > 1:
        divisors = [d for d in range(2, size + 1) if size % d == 0]
        result.append(draw(st.sampled_from(divisors)))
        size //= result[-1]
    for _ in range(draw(st.integers(0, 2))):
        result.insert(draw(st.integers(0, len(result))), 1)
    return tuple(result)


def test_view_of_another_size_is_rejected() -> None:
    with pytest.raises(ConfigError, match="number of elements differs"):
        numbered((2, 3))[0].view(7)


def test_writes_through_a_view_reach_the_storage() -> None:
    buffer, array = numbered((4, 6))
    buffer[1:3, ::2].transpose(1, 0).numpy()[...] = -1
    assert (array[1:3, ::2] == -1).all()
    assert (array == -1).sum() == 6


@pytest.mark.parametrize("key", [4, -5, (0, 6), (0, 0, 0), slice(None, None, -1)])
def test_keys_outside_the_shape_and_negative_steps_raise_index_error(key: Any) -> None:
    with pytest.raises(IndexError):
        numbered((4, 6))[0][key]


def test_transpose_needs_every_axis_once() -> None:
    with pytest.raises(ConfigError, match="cannot transpose"):
        numbered((2, 3))[0].transpose(0, 0)


def test_only_contiguous_arrays_can_be_borrowed() -> None:
    with pytest.raises(ConfigError, match="strided"):
        Buffer.borrow(np.zeros((4, 4), np.float32)[:, ::2])


def test_arrays_of_unknown_dtypes_cannot_be_borrowed() -> None:
    with pytest.raises(ConfigError, match="complex"):
        Buffer.borrow(np.zeros(2, np.complex128))


@quick
@given(shapes)
def test_contiguous_strides_are_those_of_a_row_major_array(shape: tuple[int, ...]) -> None:
    if 0 not in shape:
        array = np.zeros(shape, np.int8)
        assert tuple(contiguous_strides(shape)) == array.strides
    assert Buffer.borrow(np.zeros(shape, np.int8)).is_contiguous


# -- other libraries -----------------------------------------------------------------------------------------------


def test_numpy_and_torch_see_a_strided_buffer_through_dlpack_without_a_copy() -> None:
    buffer, array = numbered((4, 6))
    view = buffer[1:, ::2]
    tensor, other = torch.from_dlpack(view), np.from_dlpack(view)
    tensor[0, 0] = 77
    assert array[1, 0] == 77
    assert tensor.tolist() == other.tolist() == array[1:, ::2].tolist()


def test_numpy_converts_a_buffer_by_itself() -> None:
    buffer, array = numbered((2, 3))
    np.testing.assert_array_equal(np.asarray(buffer), array)
    np.testing.assert_array_equal(np.asarray(buffer, dtype=np.float64), array.astype(np.float64))


@pytest.mark.parametrize("name", sorted(dtypes.ALL))
def test_every_dtype_round_trips_through_arena_memory(name: str) -> None:
    dtype = dtypes.parse(name)
    arena = Arena(reserve_host(1 << 16))
    buffer = Buffer(arena.allocate(6 * dtype.itemsize, "numbers"), dtype, (2, 3))
    buffer.numpy()[...] = np.arange(6).reshape(2, 3)
    assert buffer.numpy().dtype == dtype.numpy
    assert buffer.transpose(1, 0).numpy().astype(int).tolist() == [[0, 3], [1, 4], [2, 5]]


def test_bfloat16_is_the_type_of_ml_dtypes() -> None:
    assert Buffer.borrow(np.ones(3, ml_dtypes.bfloat16)).dtype is dtypes.bfloat16


# -- lifetimes -----------------------------------------------------------------------------------------------------


def arena_buffer(arena: Arena) -> Buffer:
    buffer = Buffer(arena.allocate(1024, "numbers"), dtypes.float32, (16, 16))
    buffer.numpy()[...] = 5
    return buffer


def test_last_view_of_a_buffer_keeps_its_storage() -> None:
    arena = Arena(reserve_host(1 << 16))
    view = arena_buffer(arena)[3:5].transpose(1, 0).view(2, 8, 2)[0]
    assert arena.stats().used_bytes == 1024
    assert (view.numpy() == 5).all()
    del view
    assert arena.stats().used_bytes == 0


@pytest.mark.parametrize("see", [Buffer.numpy, np.from_dlpack, torch.from_dlpack, np.asarray])
def test_what_another_library_sees_keeps_the_storage_alive(see: Any) -> None:
    arena = Arena(reserve_host(1 << 16))
    seen = see(arena_buffer(arena)[2:4])
    gc.collect()
    rival = Buffer(arena.allocate(4096, "rival"), dtypes.float32, (1024,))
    rival.numpy()[...] = -1
    assert (np.asarray(seen) == 5).all()
    del seen, rival
    gc.collect()
    assert arena.stats().used_bytes == 0


def test_array_outlives_arena_and_region() -> None:
    array = arena_buffer(Arena(reserve_host(1 << 16))).numpy()
    gc.collect()
    assert (array == 5).all()


# -- memory that the host cannot address ---------------------------------------------------------------------------


@pytest.mark.parametrize("see", [Buffer.numpy, np.from_dlpack, np.asarray, Buffer.__dlpack_device__])
def test_host_access_to_a_handle_raises_and_names_the_way_out(see: Any) -> None:
    space = MemorySpace("far:0", host_addressable=False)
    arena = Arena(Region(space, 0x7000_0000_0000, 1 << 16))
    buffer = Buffer(arena.allocate(64, "far"), dtypes.float32, (4, 4))
    with pytest.raises(MemorySpaceError, match="far:0") as caught:
        see(buffer)
    assert "download" in caught.value.hint


def test_views_of_a_handle_are_arithmetic_on_its_address_alone() -> None:
    arena = Arena(Region(MemorySpace("far:0", host_addressable=False), 0x7000_0000_0000, 1 << 16))
    buffer = Buffer(arena.allocate(96, "far"), dtypes.float32, (4, 6))
    assert buffer[2, 3].address == buffer.address + (2 * 6 + 3) * 4
    assert buffer[1:].transpose(1, 0).strides == (1, 6)
