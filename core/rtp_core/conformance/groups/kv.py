"""kv: blocks by id through layered, strided caches of every order that the manifest lists; mixed batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np

from rtp_core import dtypes
from rtp_core.conformance.attention_step import Cache
from rtp_core.conformance.bench import Bench, Role
from rtp_core.conformance.case import Case
from rtp_core.conformance.groups.composites import serves
from rtp_core.conformance.op_check import Array, Setting
from rtp_core.conformance.settings import BY_OP
from rtp_core.conformance.subject import Subject
from rtp_core.conformance.tolerance import compare, tolerance
from rtp_core.device.device import Device

GROUP = "kv"
BLOCKS = ("none", "one", "one block", "one more", "several blocks")
MIXED = ("rope_kv_write", "attention_layer", "context_attention", "decoder_self_attention", "decoder_layer")


def cases(subject: Subject) -> Iterator[Case]:
    if subject.opening_error:
        return
    manifest = subject.manifest
    for dtype, order, length in product(manifest.dtypes, manifest.kv_layouts, BLOCKS):
        yield Case(GROUP, f"{order} {dtype}: {length}", partial(_round_trip, dtype, order, length))
    for order in manifest.kv_layouts:
        yield Case(GROUP, f"{order}: a block copied is a block forked", partial(_fork, order))
    for dtype, order, op in product(manifest.dtypes, manifest.kv_layouts, MIXED):
        for one in BY_OP[op]:
            setting = Setting(one, dtype)
            yield Case(GROUP, f"{order} {setting.name}", partial(_mixed, setting, order))


def _bench(device: Device, subject: Subject, dtype: str, order: str, *, is_oracle: bool = False) -> Bench:
    size = subject.device.kv_layout.block_size
    return Bench(device, dtypes.parse(dtype), block_size=size, kv_order=order, is_oracle=is_oracle)


def _round_trip(dtype: str, order: str, length: str, subject: Subject) -> None:
    """Write tokens of two requests in any order, then gather both; what was there before stays."""
    device = subject.device
    size = device.kv_layout.block_size
    tokens = dict(zip(BLOCKS, (0, 1, size, size + 1, 2 * size + 2), strict=True))[length]
    outcomes = []
    for ops, is_oracle in ((device, False), (subject.reference, True)):
        b = _bench(ops, subject, dtype, order, is_oracle=is_oracle)
        cache = Cache(b, (tokens, size + 2), role=Role.WRITTEN)
        fresh = b.rng.permutation(cache.slots[0])
        k, v = (b.normal(tokens, b.dims.num_key_value_heads, b.dims.head_dim) for _ in range(2))
        ops.kv_write(cache.kv, k, v, b.ids(fresh))
        gathered = [ops.kv_gather(cache.kv, b.ids(cache.tables[r]), n) for r, n in enumerate((tokens, size + 2))]
        outcomes.append([*(ops.download(x) for pair in gathered for x in pair), *b.results()])
    names = ("k", "v", "k of another request", "v of another request", "the cache")
    for name, got, expected in zip(names, *outcomes, strict=True):
        compare(got, expected, tolerance(dtype, is_composite=False), name)


def _fork(order: str, subject: Subject) -> None:
    """Copy one block over another, as a fork of a request does, and gather through the copy."""
    device, size = subject.device, subject.device.kv_layout.block_size
    b = _bench(device, subject, "float32", order)
    cache = Cache(b, (size, size), role=Role.WRITTEN)
    source, target = int(cache.tables[0, 0]), int(cache.tables[1, 0])
    device.copy(cache.blocks[target], cache.blocks[source])
    first, second = (device.kv_gather(cache.kv, b.ids(np.array([block])), size) for block in (source, target))
    limit = tolerance("float32", is_composite=False)
    for x, y in zip(first, second, strict=True):
        compare(device.download(y), device.download(x), limit, "the fork")


def _mixed(setting: Setting, order: str, subject: Subject) -> None:
    """A mixed batch over the cache: the default, and every override that serves it."""
    device = subject.device
    ways = [device, *(device.bound({o.op: o.function}) for o in device.overrides if serves(o, setting))]
    expected = _call(setting, order, subject, subject.reference, is_oracle=True)
    for ops in ways:
        got = _call(setting, order, subject, ops, is_oracle=False)
        for number, (x, y) in enumerate(zip(got, expected, strict=True)):
            compare(x, y, setting.limit, f"result {number} of {setting.op} over {order}")


def _call(setting: Setting, order: str, subject: Subject, ops: Device, *, is_oracle: bool) -> list[Array]:
    bench = setting.bench(ops, subject, is_oracle=is_oracle)
    bench = replace(bench, kv_order=order, placed=[])
    call = setting.operands.make(bench)
    returned = getattr(ops, setting.op)(*call.args, **call.options)
    results = returned if isinstance(returned, tuple) else (returned,)
    return [*(ops.download(x) for x in results), *bench.results()]
