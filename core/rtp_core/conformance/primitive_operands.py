"""How the suite calls each primitive. Sizes are the bench's; letters as in `device.primitives`."""

from __future__ import annotations

import numpy as np

from rtp_core import dtypes
from rtp_core.conformance.attention_step import Cache
from rtp_core.conformance.bench import Bench, Role
from rtp_core.conformance.call import Call, Operands, call, declared, for_each, operands
from rtp_core.device.primitives import ACTIVATIONS
from rtp_core.memory.buffer import Buffer
from rtp_core.memory.qbuffer import SCHEMES

POSITIONS = 20
MATRIX_UNIT = 64
EPS = 1e-5
FLOATS = ("float32", "bfloat16", "float16")


@operands("gather_rows")
def rows(b: Bench) -> Call:
    return call(b.normal(b.dims.vocab_size, b.dims.hidden_size), _some_ids(b))


@operands("gather_rows", weights="any")
def rows_widened(b: Bench) -> Call:
    table = b.matrix(b.dims.vocab_size, b.dims.hidden_size)
    return call(table, _some_ids(b), dtype=dtypes.float32, result=dtypes.float32)


def _some_ids(b: Bench) -> Buffer:
    return b.ids(b.rng.integers(0, b.dims.vocab_size, b.rows))


@operands("gemm", features={"bias"}, weights="any")
def transposed_weight(b: Bench) -> Call:
    x, weight = b.normal(b.rows, b.dims.hidden_size), b.matrix(b.dims.intermediate_size, b.dims.hidden_size)
    return call(x, weight, bias=b.vector_or_none("bias", b.dims.intermediate_size), trans_b=True)


@operands("gemm", features={"bias"}, weights="quantized", min_rows=5)
def whole_tiles(b: Bench) -> Call:
    """Sizes that matrix instructions take as they are, where a scheme leaves them open."""
    columns = max(MATRIX_UNIT, SCHEMES[b.scheme].unit)
    x, weight = b.normal(MATRIX_UNIT + b.rows, columns), b.matrix(2 * MATRIX_UNIT, columns)
    return call(x, weight, bias=b.vector_or_none("bias", 2 * MATRIX_UNIT), trans_b=True)


@operands("gemm", features={"bias"})
def straight_weight(b: Bench) -> Call:
    x, weight = b.normal(b.rows, b.dims.hidden_size), b.normal(b.dims.hidden_size, b.dims.intermediate_size)
    return call(x, weight, bias=b.vector_or_none("bias", b.dims.intermediate_size))


@operands("gemm")
def narrow_weight(b: Bench) -> Call:
    numbers = b.rng.standard_normal((b.dims.intermediate_size, b.dims.hidden_size))
    return call(b.normal(b.rows, b.dims.hidden_size), b.place(numbers, dtypes.bfloat16), trans_b=True)


@operands("gemm")
def queries_that_share_keys(b: Bench) -> Call:
    heads, group = b.dims.num_key_value_heads, b.dims.num_attention_heads // b.dims.num_key_value_heads
    q = b.normal(b.rows, heads, group, b.dims.head_dim).transpose(1, 2, 0, 3)
    return call(q, b.normal(heads, 1, 7, b.dims.head_dim), trans_b=True)


@operands("gemm")
def scores_that_share_values(b: Bench) -> Call:
    heads, group = b.dims.num_key_value_heads, b.dims.num_attention_heads // b.dims.num_key_value_heads
    return call(b.normal(heads, group, b.rows, 7), b.normal(heads, 1, 7, b.dims.head_dim))


@operands("add", "mul")
def equals(b: Bench) -> Call:
    return call(b.normal(b.rows, b.dims.hidden_size), b.normal(b.rows, b.dims.hidden_size))


@operands("add", "mul")
def with_a_row(b: Bench) -> Call:
    return call(b.normal(b.rows, b.dims.hidden_size), b.normal(b.dims.hidden_size))


@operands("add", "mul")
def with_a_column(b: Bench) -> Call:
    return call(b.normal(b.rows, b.dims.hidden_size), b.normal(b.rows, 1))


@operands("rms_norm")
def tokens(b: Bench) -> Call:
    return call(b.normal(b.rows, b.dims.hidden_size), b.normal(b.dims.hidden_size), eps=EPS)


@operands("rms_norm")
def heads(b: Bench) -> Call:
    return call(b.normal(b.rows, 3, b.dims.head_dim), b.normal(b.dims.head_dim), eps=EPS)


@operands("rms_norm")
def zeros(b: Bench) -> Call:
    return call(b.place(np.zeros((b.rows, 8))), b.normal(8), eps=1e-6)


@operands("layer_norm")
def centred_tokens(b: Bench) -> Call:
    size = b.dims.hidden_size
    return call(b.normal(b.rows, size), b.normal(size), b.normal(size), eps=EPS)


@operands("layer_norm")
def centred_zeros(b: Bench) -> Call:
    return call(b.place(np.zeros((b.rows, 8))), b.normal(8), b.normal(8), eps=1e-6)


def _activation(kind: str, b: Bench) -> Call:
    numbers = b.rng.standard_normal((b.rows, b.dims.intermediate_size)) * 4
    if b.rows == 1:
        numbers[:, 0], numbers[:, -1] = 1000.0, -1000.0  # the exponential of neither is finite
    return call(b.place(numbers), kind=kind)


activations = for_each("activation", ACTIVATIONS, _activation)


@operands("softmax")
def scores(b: Bench) -> Call:
    return call(b.normal(2, 3, b.rows, 7, scale=8.0), scale=0.5)


@operands("softmax")
def capped_scores(b: Bench) -> Call:
    return call(b.normal(b.rows, 7, scale=8.0), scale=0.5, softcap=5.0)


@operands("softmax")
def masked_scores(b: Bench) -> Call:
    mask = np.triu(np.full((b.rows, 7), -np.inf), k=1)
    mask[1:2] = -np.inf  # a row that sees nothing is zeros
    return call(b.normal(2, 3, b.rows, 7), mask=b.floats(mask))


@operands("softmax")
def huge_scores(b: Bench) -> Call:
    return call(b.place(np.sign(b.rng.standard_normal((b.rows, 7))) * 6e4))


@operands("rope")
def whole_heads(b: Bench) -> Call:
    return _rope(b, b.dims.head_dim)


@operands("rope")
def first_half_of_heads(b: Bench) -> Call:
    return _rope(b, 2 * (b.dims.head_dim // 4) or 2)


def _rope(b: Bench, rotated: int) -> Call:
    angles = np.outer(np.arange(POSITIONS), 100.0 ** (-np.arange(0, rotated, 2) / rotated))
    x = b.normal(b.rows, b.dims.num_attention_heads, b.dims.head_dim)
    positions = b.ids(b.rng.integers(0, POSITIONS, b.rows))
    return call(x, b.floats(np.cos(angles)), b.floats(np.sin(angles)), positions)


@operands("kv_write")
def scattered_tokens(b: Bench) -> Call:
    cache, kv_heads = Cache(b, (b.rows,), role=Role.WRITTEN), b.dims.num_key_value_heads
    both = b.normal(b.rows, 2 * kv_heads, b.dims.head_dim)  # k and v are views of one buffer
    return call(cache.kv, both[:, :kv_heads], both[:, kv_heads:], b.ids(b.rng.permutation(cache.slots[0])))


@operands("kv_gather")
def one_request(b: Bench) -> Call:
    cache = Cache(b, (b.rows,))
    return call(cache.kv, b.ids(cache.tables[0]), b.rows)


@operands("top_k")
def ties(b: Bench) -> Call:
    return call(b.place(b.rng.integers(-3, 3, (b.rows, 17))), 6)


@operands("top_k")
def minus_infinities(b: Bench) -> Call:
    numbers = np.full((b.rows, 9), -np.inf)
    numbers[:, 4] = 1
    return call(b.place(numbers), 3)


def _cast(name: str, b: Bench) -> Call:
    halfway = 1 + np.arange(b.rows * 8).reshape(b.rows, 8) * 2.0**-12  # between neighbours of a narrow float
    return call(b.place(halfway), dtypes.parse(name), result=dtypes.parse(name))


casts = for_each("cast", FLOATS, _cast)


@operands("quantize", weights="quantized")
def groups(b: Bench) -> Call:
    scheme = SCHEMES[b.scheme]
    numbers = b.rng.standard_normal((b.rows, 2 * scheme.unit if scheme.group else b.dims.hidden_size))
    numbers[:1, : scheme.group or None] = 0  # a group without a scale
    numbers[1:2, : scheme.unit] = 0
    return call(b.place(numbers), scheme)


def _dequantize(name: str, b: Bench) -> Call:
    dtype = dtypes.parse(name)
    return call(b.matrix(b.dims.vocab_size, b.dims.hidden_size), dtype=dtype, result=dtype)


dequantizations = tuple(
    Operands("dequantize", one.name, one.make, weights="quantized", min_rows=5)
    for one in for_each("dequantize", FLOATS, _dequantize)
)

PRIMITIVE_OPERANDS = declared(globals())
