"""Kernels are compiled for GPUs that are not here: in a process of its own, where Triton does not interpret."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[4]
COMMAND = ROOT / "plugins/torch_base/benchmarks/compile_kernels.py"
RECORDED = ROOT / "benchmarks/results/triton_kernels.json"
TARGETS = ("sm_80", "sm_90", "gfx90a", "gfx942", "gfx1100")
LAUNCHES = {  # one of each kernel, and the kernels that it is made of
    "decode attention": {"_attend_split", "_combine"},
    "context attention, 2048 tokens": {"_attend"},
    "rope_kv_write": {"_rope_kv_write"},
    "add_norm, layer": {"_add_norm"},
    "gated_activation, silu": {"_gated_activation"},
    "int4 product with zeros, 1 row": {"_packed_gemm", "_add_splits"},
    "grouped product, 2048 rows": {"_grouped_gemm"},
    "argmax": {"_tile_peaks", "_row_peaks"},
    "draw": {"_draw"},
}
# float32 has no matrix instructions on RDNA 3, and what stands in for them holds whole rows of keys in registers.
# On sm_80 a tile of 128 queries, its next keys under way, wants two registers more than there are: once, 8 bytes.
SPILLING = {
    ("decode attention, float32", "gfx1100"),
    ("context attention, float32", "gfx1100"),
    ("context attention, 2048 tokens", "sm_80"),
}
SPILLS = ("spill_bytes", "spilled_registers", "scratch_bytes")  # to memory: AMD's scalars go to lanes of vectors


def spills_of(figures: dict[str, int]) -> int:
    return sum(figures.get(name, 0) for name in SPILLS)


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    result: dict[str, Any] = json.loads(RECORDED.read_text())["kernels"]
    return result


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    place = tmp_path_factory.mktemp("compiled")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(place / "cache")
    command = [sys.executable, str(COMMAND), *LAUNCHES, "--output", str(place / "kernels.json")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads((place / "kernels.json").read_text())["kernels"]
    return result


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("launch", LAUNCHES)
def test_a_kernel_compiles_and_spills_no_more_than_recorded(
    compiled: dict[str, Any], recorded: dict[str, Any], launch: str, target: str
) -> None:
    kernels = compiled[launch][target]
    assert kernels.keys() == LAUNCHES[launch]
    for name, figures in kernels.items():
        assert figures["registers"] > 0
        assert spills_of(figures) <= spills_of(recorded[launch][target][name]), f"{name}: {figures}"


def test_only_the_kernels_that_we_know_of_spill(recorded: dict[str, Any]) -> None:
    assert LAUNCHES.keys() <= recorded.keys()
    spilling = {
        (launch, target)
        for launch, targets in recorded.items()
        for target in TARGETS
        if any(spills_of(figures) for figures in targets[target].values())
    }
    assert spilling == SPILLING
