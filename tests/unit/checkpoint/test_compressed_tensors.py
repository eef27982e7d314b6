"""Folders of compressed-tensors: what their codes mean by NumPy and torch, what is refused, and files that lie."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from rtp_core.checkpoint.opening import open_checkpoint
from rtp_core.device import reference_ops
from rtp_core.errors import CheckpointError, UnsupportedModelError
from rtp_core.memory.qbuffer import FP8_CHANNEL, INT8_CHANNEL, QBuffer, QuantScheme

CONFIG = {
    "model_type": "llama",
    "vocab_size": 10,
    "hidden_size": 4,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
TYPES = {"float-quantized": "float", "int-quantized": "int"}
DTYPES = {"float-quantized": torch.float8_e4m3fn, "int-quantized": torch.int8}
SCHEMES: Mapping[str, QuantScheme] = {"float-quantized": FP8_CHANNEL, "int-quantized": INT8_CHANNEL}
N, K = 6, 5
each_format = pytest.mark.parametrize("form", TYPES)


def quantization(form: str, **changes: Any) -> dict[str, Any]:
    """As llm-compressor writes it for weights by channel and activations by token; `a__b` changes b within a."""
    common = {"actorder": None, "block_structure": None, "group_size": None, "num_bits": 8, "observer_kwargs": {}}
    common |= {"symmetric": True, "type": TYPES.get(form, "int")}
    found = {
        "config_groups": {
            "group_0": {
                "input_activations": {**common, "dynamic": True, "observer": None, "strategy": "token"},
                "output_activations": None,
                "targets": ["Linear"],
                "weights": {**common, "dynamic": False, "observer": "minmax", "strategy": "channel"},
            }
        },
        "format": form,
        "global_compression_ratio": 1.5,
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
    }
    group = found["config_groups"]["group_0"]
    for path, value in changes.items():
        outer, _, inner = path.rpartition("__")
        target = found if not outer else group if outer == "group" else group[outer]
        target[inner] = value
    return found


def codes(form: str) -> torch.Tensor:
    numbers = torch.randn(N, K, generator=torch.Generator().manual_seed(3)) * 40
    return numbers.to(DTYPES[form])


@pytest.fixture
def put(tmp_path: Path) -> Callable[..., Path]:
    def write(config: Any, tensors: dict[str, torch.Tensor]) -> Path:
        (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "quantization_config": config}))
        safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
        return tmp_path

    return write


@each_format
@pytest.mark.parametrize("scale_dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(N, 1), (1,), ()])
def test_codes_and_scales_become_one_tensor(
    put: Callable[..., Path], form: str, scale_dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    scales = torch.rand(shape, generator=torch.Generator().manual_seed(4)).to(scale_dtype)
    stored = {"a.weight": codes(form), "a.weight_scale": scales, "lm_head.weight": torch.ones(3, 2)}
    folder = put(quantization(form, weights__strategy="channel" if shape == (N, 1) else "tensor"), stored)
    checkpoint = open_checkpoint(folder)
    assert checkpoint.tensors.keys() == {"a.weight", "lm_head.weight"}
    weight = checkpoint.tensors["a.weight"]
    assert isinstance(weight, QBuffer)
    assert weight.scheme is SCHEMES[form]
    assert weight.payload.storage.is_borrowed and not weight.payload.numpy().flags.writeable
    assert not isinstance(checkpoint.tensors["lm_head.weight"], QBuffer)
    assert checkpoint.nbytes == sum(tensor.nbytes for tensor in stored.values())
    found = reference_ops.dequantize([part.numpy() for part in weight.parts], weight.scheme)
    np.testing.assert_array_equal(found, (codes(form).float() * scales.float()).numpy())


@each_format
@pytest.mark.parametrize(
    "changes",
    [
        {"group__input_activations": None},
        {"group__format": "same"},
        {"weights__group_size": -1},
        {"sparsity_config": {"format": "dense", "global_sparsity": 0.1}},
        {"transform_config": {}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_settings_that_mean_the_same_are_taken(put: Callable[..., Path], form: str, changes: dict[str, Any]) -> None:
    changes = {name: form if value == "same" else value for name, value in changes.items()}
    folder = put(quantization(form, **changes), {"a.weight": codes(form), "a.weight_scale": torch.ones(N, 1)})
    assert isinstance(open_checkpoint(folder).tensors["a.weight"], QBuffer)


@each_format
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"quant_method": "fp8"}, "quant_method 'fp8'"),
        ({"quant_method": {}}, "quant_method {}"),
        ({"format": "pack-quantized"}, "format 'pack-quantized'"),
        ({"format": None}, "format None"),
        ({"kv_cache_scheme": {"num_bits": 8}}, "kv_cache_scheme {'num_bits': 8}"),
        ({"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparsity_config.format 'sparse-24-bitmask'"),
        ({"transform_config": {"config_groups": {}}}, "transform_config"),
        ({"config_groups": {}}, "config_groups {}"),
        ({"config_groups": [3]}, r"config_groups \[3\]"),
        ({"config_groups": {"group_0": 3}}, "weights.num_bits None"),
        ({"group__format": "nvfp4-pack-quantized"}, "format 'nvfp4-pack-quantized'"),
        ({"group__output_activations": {}}, "output_activations {}"),
        ({"group__weights": None}, "weights.num_bits None"),
        ({"weights__num_bits": 4}, "weights.num_bits 4"),
        ({"weights__num_bits": {"mlp": 8}}, "weights.num_bits {'mlp': 8}"),
        ({"weights__symmetric": False}, "weights.symmetric False"),
        ({"weights__type": "other"}, "weights.type 'other'"),
        ({"weights__strategy": "block", "weights__block_structure": [128, 128]}, "weights.strategy 'block'"),
        ({"weights__group_size": 128}, "weights.group_size 128"),
        ({"input_activations__dynamic": False}, "input_activations.dynamic False"),
        ({"input_activations__strategy": "tensor"}, "input_activations.strategy 'tensor'"),
        ({"input_activations__num_bits": 4}, "input_activations.num_bits 4"),
    ],
)
def test_other_settings_are_unsupported_by_name(
    put: Callable[..., Path], form: str, changes: dict[str, Any], told: str
) -> None:
    folder = put(quantization(form, **changes), {"a.weight": codes(form), "a.weight_scale": torch.ones(N, 1)})
    with pytest.raises(UnsupportedModelError, match=f"quantization_config with {told}.*supported is") as caught:
        open_checkpoint(folder)
    assert "config.json" in str(caught.value)


@pytest.mark.parametrize("config", [3, [], "gptq", {}, {"quant_method": "gptq", "bits": 4}])
def test_other_methods_are_unsupported_before_a_tensor_is_read(put: Callable[..., Path], config: Any) -> None:
    folder = put(config, {})
    (folder / "model.safetensors").unlink()
    with pytest.raises(UnsupportedModelError, match="quant_method"):
        open_checkpoint(folder)


FITTING = {"a.weight": codes("float-quantized"), "a.weight_scale": torch.ones(N, 1)}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"a.weight": None}, "bad tensor a.weight in .*it is missing"),
        ({"a.weight_scale": None}, "bad tensor a.weight in .*a.weight_scale is missing"),
        ({"a.weight": codes("int-quantized")}, r"expected float8_e4m3fn of two axes, got int8 \(6, 5\)"),
        ({"a.weight": torch.ones(N, K)}, "got float32"),
        ({"a.weight": torch.ones(N).to(torch.float8_e4m3fn)}, r"got float8_e4m3fn \(6,\)"),
        ({"a.weight": torch.ones(N, K, 1).to(torch.float8_e4m3fn)}, r"got float8_e4m3fn \(6, 5, 1\)"),
        (
            {"a.weight_scale": torch.ones(K, 1)},
            r"bad tensor a.weight_scale in .*\(6, 1\) or \(1,\), got float32 \(5, 1\)",
        ),
        ({"a.weight_scale": torch.ones(1, N)}, r"got float32 \(1, 6\)"),
        ({"a.weight_scale": torch.ones(0)}, r"got float32 \(0,\)"),
        ({"a.weight_scale": torch.ones(N, 1).long()}, "got int64"),
        ({"a.weight_scale": torch.ones(N, 1).to(torch.float8_e4m3fn)}, "got float8_e4m3fn"),
    ],
)
def test_tensors_that_do_not_fit_their_scales_are_refused_by_name(
    put: Callable[..., Path], changes: dict[str, torch.Tensor | None], why: str
) -> None:
    stored = {name: tensor for name, tensor in (FITTING | changes).items() if tensor is not None}
    with pytest.raises(CheckpointError, match=why):
        open_checkpoint(put(quantization("float-quantized"), stored))
