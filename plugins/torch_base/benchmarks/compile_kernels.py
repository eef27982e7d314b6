"""Compile every kernel for every GPU we name, without one, and record registers and spills.

    python plugins/torch_base/benchmarks/compile_kernels.py [LAUNCH ...] [--output FILE]

Launches are the kernels' own: a driver that compiles for a target and runs nothing stands where a GPU's would. Figures
are those of `ptxas -v` and of the notes in AMD's assembly. They say what fits, and nothing about speed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import triton
from kernel_launches import LAUNCHES
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.compiler import CompiledKernel
from triton.runtime.driver import driver

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx90a": GPUTarget("hip", "gfx90a", 64),
    "gfx942": GPUTarget("hip", "gfx942", 64),
    "gfx1100": GPUTarget("hip", "gfx1100", 32),
}
NARROW = {"gfx1100"}  # see rtp_torch.kernels.tile
RESULTS = Path(__file__).parents[3] / "benchmarks/results/triton_kernels.json"

Figures = dict[str, int]


class CompilingDriver(DriverBase):
    """Takes launches for `target`, compiles them, and launches nothing."""

    max_shared_bytes: ClassVar[dict[str, int]] = {"cuda": 163 << 10, "hip": 64 << 10}

    def __init__(self, target: GPUTarget, index: int) -> None:
        super().__init__()
        self._target, self._index = target, index
        self.utils = self

    @classmethod
    def is_active(cls) -> bool:
        return False

    def map_python_to_cpp_type(self, ty: str) -> str:
        return ty

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return self._index  # kernels are remembered by device: what another one has compiled is compiled again

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> str:
        return "cpu"

    def get_benchmarker(self) -> Any:
        raise NotImplementedError("nothing runs here")

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": self.max_shared_bytes[self._target.backend]}

    def load_binary(self, name: str, binary: bytes, shared: int, device: int) -> tuple[str, str, int, int, int]:
        return name, name, 0, 0, 1024

    def unload_module(self, module: str) -> None:
        pass

    def launcher_cls(self, source: object, metadata: object) -> Callable[..., None]:
        return lambda *arguments: None


def nvidia_figures(log: str) -> Figures:
    """Of what ptxas said about one kernel."""
    registers = re.search(r"Used (\d+) registers", log)
    spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", log)
    if registers is None or spills is None:
        raise ValueError(f"ptxas told no registers and spills: {log!r}")
    return {"registers": int(registers[1]), "spill_bytes": int(spills[1]) + int(spills[2])}


def amd_figures(assembly: str) -> Figures:
    """Of the notes at the end of one kernel's assembly. Accumulation registers are part of the vector ones."""
    notes = {
        name: int(number)
        for name, number in re.findall(r"\.(\w+_(?:count|spill_count)|private_segment_fixed_size):\s+(\d+)", assembly)
    }
    return {
        "registers": notes["vgpr_count"],
        "spilled_registers": notes["vgpr_spill_count"],
        "scalar_registers": notes["sgpr_count"],
        "spilled_scalar_registers": notes["sgpr_spill_count"],
        "scratch_bytes": notes["private_segment_fixed_size"],
    }


@contextlib.contextmanager
def _compiled() -> Iterator[list[tuple[CompiledKernel, str]]]:
    """What is compiled inside, each with what its assembler printed."""
    printed, kernels = io.StringIO(), []

    def keep(*, src: Any, metadata_group: dict[str, str], metadata: dict[str, Any], **_: object) -> None:
        kernels.append((CompiledKernel(src, metadata_group, metadata["hash"]), printed.getvalue()))
        printed.seek(printed.truncate(0))

    with knobs.compilation.scope(), knobs.nvidia.scope(), contextlib.redirect_stdout(printed):
        knobs.compilation.always_compile, knobs.nvidia.dump_ptxas_log = True, True
        knobs.compilation.listener = keep
        yield kernels


def compile_for(target: str, launch: Callable[[bool], None], index: int) -> dict[str, Figures]:
    """Figures of each kernel of a launch for `target`, by the kernel's name. An `index` is good for one launch."""
    driver.set_active(CompilingDriver(TARGETS[target], index))
    with _compiled() as kernels:
        launch(target in NARROW)
    figures = {}
    for kernel, log in kernels:
        told = nvidia_figures(log) if "ptx" in kernel.asm else amd_figures(kernel.asm["amdgcn"])
        figures[kernel.metadata.name] = {
            **told,
            "shared_bytes": kernel.metadata.shared,
            "warps": kernel.metadata.num_warps,
        }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "launches", metavar="LAUNCH", nargs="*", help=f"of {', '.join(LAUNCHES)}; figures of others stay"
    )
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    is_kept = arguments.launches and arguments.output.exists()
    kernels = json.loads(arguments.output.read_text())["kernels"] if is_kept else {}
    for index, (name, target) in enumerate(product(arguments.launches or LAUNCHES, TARGETS)):
        kernels.setdefault(name, {})[target] = compile_for(target, LAUNCHES[name], index)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    document = {"schema": 1, "triton": triton.__version__, "kernels": kernels}
    arguments.output.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
