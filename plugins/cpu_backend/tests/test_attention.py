import numpy as np
import pytest
from cpu_oracle import FLOATS, assert_close, batch_of, put, rounded, wide

from rtp_core.plugin import AttentionBatch, Buffer, Device, DeviceError, DType, dtypes
from rtp_cpu.device import CpuDevice

SCALE = 0.3
IN_FLOATS = {"portable", "dotprod"}  # what multiplies a prompt's keys and values in float32, whatever they are
Case = tuple[list[int], list[int], int, int]  # query and context tokens of each request, kv heads, block size


def cache_of(device: Device, blocks: int, heads: int, block: int, dim: int, dtype: DType, order: str) -> Buffer:
    """[N, 2, K, B, D] of two layers side by side, the second one, full of NaN."""
    shape = (blocks, 2, 2, heads, block, dim) if order == "KBD" else (blocks, 2, 2, block, heads, dim)
    whole = device.upload(np.full(shape, np.nan, dtype.numpy), "kv")[:, 1]
    return whole if order == "KBD" else whole.transpose(0, 1, 3, 2, 4)


def fill(device: Device, kv: Buffer, batch: AttentionBatch, k: list[np.ndarray], v: list[np.ndarray]) -> None:
    """Write the whole context of every request through kv_write."""
    block = kv.shape[3]
    tables = batch.block_tables.numpy()
    for r, length in enumerate(batch.context_lens):
        t = np.arange(length)
        slots = (tables[r, t // block] * block + t % block).astype(np.int32)
        device.kv_write(kv, put(device, k[r]), put(device, v[r]), device.upload(slots, "slots"))


def attended(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """q: [M, H, D], the last M tokens of k, v: [S, K, D]; float64."""
    tokens, heads, _ = q.shape
    group = heads // k.shape[1]
    result = np.zeros(q.shape)
    for i in range(tokens):
        seen = len(k) - tokens + i + 1
        for h in range(heads):
            scores = wide(k[:seen, h // group]) @ wide(q[i, h]) * SCALE
            p = np.exp(scores - scores.max())
            result[i, h] = (p / p.sum()) @ wide(v[:seen, h // group])
    return result


CASES: list[Case] = [
    ([1], [1], 1, 1),
    ([1, 1, 1], [5, 64, 131], 2, 16),
    ([4], [4], 1, 4),
    ([1, 7, 70], [9, 7, 150], 3, 32),
    ([130], [390], 2, 16),
]


@pytest.mark.parametrize("kv_dtype", FLOATS, ids=str)
@pytest.mark.parametrize("order", ["KBD", "BKD"])
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("heads", [(1, 8), (3, 64), (2, 5)], ids=str)
def test_attention_over_blocks_is_attention(
    device: CpuDevice, rng: np.random.Generator, case: Case, heads: tuple[int, int], order: str, kv_dtype: DType
) -> None:
    (queries, contexts, kv_heads, block), (group, dim) = case, heads
    num_decode = sum(q == 1 for q in queries)
    batch = batch_of(device, queries, contexts, num_decode, block)
    kv = cache_of(device, len(queries) * batch.block_tables.shape[1], kv_heads, block, dim, kv_dtype, order)
    k, v = ([rounded(rng.standard_normal((c, kv_heads, dim)), kv_dtype) for c in contexts] for _ in range(2))
    fill(device, kv, batch, k, v)
    q = rng.standard_normal((sum(queries), kv_heads * group, dim)).astype(np.float32)
    expected = np.concatenate(
        [attended(q[batch.query_starts[r] : batch.query_starts[r + 1]], k[r], v[r]) for r in range(len(queries))]
    )
    place = put(device, q)
    decode = device._decoder_self_attention(place[:num_decode], kv, batch, scale=SCALE)
    assert_close(decode, expected[:num_decode], dtypes.float32)
    context = device._context_attention(place[num_decode:], kv, batch, scale=SCALE)
    if kv_dtype is dtypes.float32 or device._native.isa in IN_FLOATS:
        assert_close(context, expected[num_decode:], dtypes.float32)
    else:  # codes of 16 bits are about as far from the numbers as keys and values of float16 are
        assert_close(context, expected[num_decode:], dtypes.float32, scale=2.0, precision=kv_dtype)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_long_decode_is_split_and_a_decode_is_a_prefill_of_one(
    device: Device, rng: np.random.Generator, dtype: DType
) -> None:
    batch, as_prefill = (batch_of(device, [1], [1500], decode, 32) for decode in (1, 0))
    kv = cache_of(device, 47, 1, 32, 32, dtype, "KBD")
    k, v = ([rounded(rng.standard_normal((1500, 1, 32)), dtype)] for _ in range(2))
    fill(device, kv, batch, k, v)
    q = rounded(rng.standard_normal((1, 2, 32)), dtype)
    expected = attended(q, k[0], v[0])
    assert_close(device._decoder_self_attention(put(device, q), kv, batch, scale=SCALE), expected, dtype)
    assert_close(device._context_attention(put(device, q), kv, as_prefill, scale=SCALE), expected, dtype)


@pytest.mark.parametrize("kv_dtype", FLOATS, ids=str)
def test_a_query_depends_on_what_it_sees_alone(device: Device, rng: np.random.Generator, kv_dtype: DType) -> None:
    """Bit for bit: not on the other queries of its step, nor on later keys and values."""
    batch, rest = batch_of(device, [150], [390], 0, 16), batch_of(device, [47], [390], 0, 16)
    kv = cache_of(device, 25, 2, 16, 64, kv_dtype, "KBD")
    k, v = (rounded(rng.standard_normal((390, 2, 64)), kv_dtype) for _ in range(2))
    q = rng.standard_normal((150, 6, 64)).astype(np.float32)
    fill(device, kv, batch, [k], [v])
    whole = device._context_attention(put(device, q), kv, batch, scale=SCALE).numpy()
    last = device._context_attention(put(device, q[-47:]), kv, rest, scale=SCALE).numpy()
    np.testing.assert_array_equal(last, whole[-47:])
    k[375], v[383] = np.nan, 1e4
    fill(device, kv, batch, [k], [v])
    spoiled = device._context_attention(put(device, q), kv, batch, scale=SCALE).numpy()
    first = 375 - (390 - 150)
    np.testing.assert_array_equal(spoiled[:first], whole[:first])
    assert np.isnan(spoiled[first:]).all()


def test_attention_follows_its_own_default(device: Device, rng: np.random.Generator) -> None:
    batch = batch_of(device, [1, 20], [33, 50], 1, 8)
    kv = cache_of(device, 2 * batch.block_tables.shape[1], 2, 8, 16, dtypes.float32, "KBD")
    k, v = ([rng.standard_normal((c, 2, 16)).astype(np.float32) for c in (33, 50)] for _ in range(2))
    fill(device, kv, batch, k, v)
    q = put(device, rng.standard_normal((21, 4, 16)).astype(np.float32))
    for ours, default, rows in (
        (device._decoder_self_attention, device.decoder_self_attention, q[:1]),
        (device._context_attention, device.context_attention, q[1:]),
    ):
        np.testing.assert_allclose(
            ours(rows, kv, batch, scale=SCALE).numpy(), default(rows, kv, batch, scale=SCALE).numpy(), atol=3e-6
        )


def test_a_block_outside_the_cache_is_refused(device: Device) -> None:
    batch = batch_of(device, [1], [9], 1, 4)
    kv = cache_of(device, 2, 1, 4, 8, dtypes.float32, "KBD")  # one block fewer than the request has
    q = device.upload(np.zeros((1, 1, 8), np.float32), "q")
    with pytest.raises(DeviceError, match="outside its table"):
        device._decoder_self_attention(q, kv, batch, scale=SCALE)
    with pytest.raises(DeviceError, match="outside its table"):
        device.kv_write(kv, q, q, device.upload(np.array([8], np.int32), "slots"))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("order", ["KBD", "BKD"])
@pytest.mark.parametrize("tokens", [0, 1, 19])
def test_what_kv_write_stores_kv_gather_finds(
    device: Device, rng: np.random.Generator, tokens: int, order: str, dtype: DType
) -> None:
    batch = batch_of(device, [tokens], [tokens], 0, 4)
    kv = cache_of(device, 5, 3, 4, 7, dtype, order)
    k, v = (rng.standard_normal((tokens, 3, 7)).astype(np.float32) for _ in range(2))
    device.kv_write(kv, put(device, k), put(device, v), batch.slots)
    got = device.kv_gather(kv, batch.block_tables[0], tokens)
    for stored, x in zip(got, (k, v), strict=True):
        np.testing.assert_array_equal(stored.numpy(), x.astype(dtype.numpy).transpose(1, 0, 2))
