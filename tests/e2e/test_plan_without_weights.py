"""What a plan says before any weight is read is what loading then gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkpoints import SHAPES, make_model, save

from rtp_core import LLM
from rtp_core.checkpoint.opening import open_checkpoint
from rtp_core.device.choice import Offer, Wishes
from rtp_core.device.plan import explained_rows
from rtp_core.device.reference import MANIFEST
from rtp_core.engine.engine_config import EngineConfig
from rtp_core.engine.explaining import explain_plan
from rtp_core.errors import CheckpointError
from rtp_core.memory.buffer import Buffer
from rtp_core.models import model
from rtp_core.models.weight_loader import WeightLoader
from rtp_core.models.weight_reader import Precision

BUDGET = 1 << 30  # bytes


def assert_agrees(path: Path, device: str, **options: str) -> None:
    told = explain_plan(path, EngineConfig(device=device, **options))
    with LLM(str(path), device=device, memory_budget=BUDGET, max_model_len=64, max_num_seqs=1, **options) as llm:
        assert told.hash == llm.plan.hash
        assert told.rows == llm.plan.rows


@pytest.mark.parametrize(
    ("device", "dtype"),
    [("cpu", "auto"), ("cpu", "float32"), ("cpu", "bfloat16"), ("ref", "auto"), ("handle", "float32")],
)
def test_for_the_default_model(device: str, dtype: str, default_model_path: Path) -> None:
    assert_agrees(default_model_path, device, dtype=dtype)


@pytest.mark.parametrize("shape", SHAPES)
def test_for_folders(shape: str, tmp_path: Path) -> None:
    save(make_model(shape), tmp_path)
    for device in ("ref", "cpu", "handle"):
        assert_agrees(tmp_path, device)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16], ids=["f16", "bf16"])
@pytest.mark.parametrize("scheme", ["q4_0", "q4_1", "q8_0"])
def test_for_weights_quantized_at_load(scheme: str, stored: torch.dtype, tmp_path: Path) -> None:
    save(make_model("llama_biases"), tmp_path, stored)
    assert_agrees(tmp_path, "cpu", quantization=scheme)


@pytest.mark.parametrize(
    ("dtype", "schemes", "expected"),
    [
        ("auto", ("q4_1", "q8_0"), {"none", "q4_1", "q8_0", "q4_1+q8_0"}),
        ("auto", ("q8_0",), {"none", "q8_0", "none+q8_0"}),
        ("auto", (), {"none"}),
        ("float32", ("q4_1", "q8_0"), {"none"}),
    ],
)
def test_schemes_that_a_device_lacks_or_a_dtype_forbids_are_floats(
    dtype: str, schemes: tuple[str, ...], expected: set[str], default_model_path: Path
) -> None:
    checkpoint = open_checkpoint(default_model_path)
    manifest = replace(MANIFEST, schemes=schemes)
    precision = Precision.by_manifest(manifest, "float32", dtype, None, "acme")
    demand = model.demand_of_header(checkpoint.config, checkpoint.header, precision, manifest, "file")
    assert {row.scheme for row in explained_rows(Offer.of_manifest(manifest), demand, Wishes())} == expected


def test_the_demand_is_the_same_down_to_every_scheme_feature_and_size(default_model_path: Path) -> None:
    with LLM(str(default_model_path), device="cpu", max_model_len=64, max_num_seqs=1, memory_budget=BUDGET) as llm:
        demand = llm.plan.demand
        assert demand.schemes["gather_rows"] == ("q8_0",)
        assert demand.schemes["ffn_layer"] == ("q4_1",)
        assert demand.dims["hidden_size"] == 576
        assert demand.assembly is not None


def test_no_contents_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(make_model("llama_biases"), tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    loads: list[str] = []
    monkeypatch.setattr(Buffer, "numpy", lambda self: loads.append(self.tag))
    monkeypatch.setattr(WeightLoader, "__init__", lambda *args: pytest.fail("weights were loaded"))
    explain_plan(tmp_path, EngineConfig(device="ref"))
    assert loads == []
    assert len(checkpoint.header) == len(checkpoint.tensors)


def test_a_tensor_that_is_missing_is_found_out_without_reading_any(tmp_path: Path) -> None:
    save(make_model("llama_tied"), tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    header = {name: b for name, b in checkpoint.header.items() if "layers.1.mlp.up" not in name}
    precision = Precision.by_manifest(MANIFEST, "float32", "auto", None, "ref")
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.up_proj\.weight is missing"):
        model.demand_of_header(checkpoint.config, header, precision, MANIFEST, str(tmp_path))
