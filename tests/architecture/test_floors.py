"""Imports go down only, core names no hardware, and plugins see the public contract alone."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import rtp_core.plugin

ROOT = Path(__file__).parents[2]
CORE = ROOT / "core" / "rtp_core"
PACKAGES = {"rtp_test_devices": ROOT / "tests" / "devices" / "rtp_test_devices"} | {
    folder.name: folder for folder in sorted((ROOT / "plugins").glob("*/rtp_*")) if folder.is_dir()
}

# Vendors, their SDKs and instruction sets, as whole words; in names like rtp_cuda or has_avx2 the parts count too.
HARDWARE = re.compile(
    r"(?<![a-z0-9])(cuda|rocm|hip|hipblas|cublas|cudnn|nvidia|nvml|amd|radeon|intel|apple|qualcomm|ascend|gaudi|habana"
    r"|avx|avx2|avx512\w*|amx|vnni|sse|sse2|sse4|neon|sve|sme|rvv|x86|x86_64|aarch64|arm|arm64|riscv|ptx|triton"
    r"|metal|mps|vulkan|sycl|oneapi|xpu|npu|tpu)(?![a-z0-9])",
    re.IGNORECASE,
)


def floors() -> dict[str, int]:
    """The floor of everything right under rtp_core, from the workspace's import contract; 0 is the lowest."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = [c["layers"] for c in settings["tool"]["importlinter"]["contracts"] if c["type"] == "layers"]
    (layers,) = [layers for layers in contracts if layers[0].startswith("rtp_core.")]
    return {
        name.strip().removeprefix("rtp_core."): number
        for number, layer in enumerate(reversed(layers))
        for name in re.split(r"[|:]", layer)
    }


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """(line, absolute module) of every import in a file, at any depth, those for type checkers included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: a relative import hides its floor"
            module = node.module or ""
            if module == "rtp_core":  # `from rtp_core import dtypes` names a module of it
                names = (alias.name for alias in node.names if alias.name != "__version__")
                yield from ((node.lineno, f"rtp_core.{name}") for name in names)
            else:
                yield node.lineno, module


def sources(folder: Path) -> list[Path]:
    found = sorted(folder.rglob("*.py"))
    assert found, f"nothing to check in {folder}"
    return found


def test_every_module_of_core_stands_on_a_floor() -> None:
    found = {path.stem if path.is_file() else path.name for path in CORE.iterdir() if path.name[0] not in "_."}
    assert found - {"plugin", "py"} - set(floors()) == set()


def test_imports_go_down_only_and_siblings_do_not_know_each_other() -> None:
    floor = floors()
    wrong = []
    for path in sources(CORE):
        home = path.relative_to(CORE).with_suffix("").parts[0]
        if home in ("__init__", "plugin"):
            continue
        for line, module in imports_of(path):
            target = module.split(".")[1:2]
            if module.split(".")[0] != "rtp_core" or not target or target[0] == home:
                continue
            if target[0] not in floor or floor[target[0]] >= floor[home]:
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {home} imports {module}")
    assert wrong == []


def test_the_public_face_shows_nothing_above_the_contract() -> None:
    ceiling = floors()["device"]
    for line, module in imports_of(CORE / "plugin.py"):
        if module.startswith("rtp_core."):
            assert floors()[module.split(".")[1]] <= ceiling, f"plugin.py:{line}: {module}"


def test_core_imports_no_plugin() -> None:
    plugins = {*PACKAGES, "torch", "triton"}
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {module}"
        for path in sources(CORE)
        for line, module in imports_of(path)
        if module.split(".")[0] in plugins
    ]
    assert wrong == []


@pytest.mark.parametrize("package", PACKAGES)
def test_plugins_import_the_public_contract_alone(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {module}"
        for path in sources(PACKAGES[package])
        for line, module in imports_of(path)
        if module.split(".")[0] == "rtp_core" and module != "rtp_core.plugin"
    ]
    assert wrong == []


@pytest.mark.parametrize("package", PACKAGES)
def test_plugins_import_of_each_other_only_the_bases_that_they_require(package: str) -> None:
    project = tomllib.loads((PACKAGES[package].parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    required = {re.split(r"[^\w-]", requirement)[0].replace("-", "_") for requirement in project["dependencies"]}
    imported = {module.split(".")[0] for path in sources(PACKAGES[package]) for _, module in imports_of(path)}
    assert (imported & set(PACKAGES)) - {package} <= required


def test_core_names_no_vendor_and_no_instruction_set() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{number}: {match[0]}"
        for path in sources(CORE)  # "hardware seen, install this package" is data: device/hardware_hints.toml
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        for match in HARDWARE.finditer(line)
    ]
    assert wrong == []


@pytest.mark.parametrize("line", ["import rtp_cuda", "# AVX-512 only", "has_avx2 = True", "for AMD's cards", "x86_64"])
def test_the_search_for_hardware_finds_it(line: str) -> None:
    assert HARDWARE.search(line)


@pytest.mark.parametrize("line", ["a ship and a chip", "harm to armour", "damd", "assess", "compress_tpu2go"])
def test_the_search_for_hardware_passes_over_words_that_contain_it(line: str) -> None:
    assert not HARDWARE.search(line)


def test_no_file_is_a_drawer_for_everything() -> None:
    drawers = {"utils.py", "util.py", "helpers.py", "common.py", "misc.py"}
    found = [p for folder in (CORE, *PACKAGES.values(), ROOT / "tests") for p in sources(folder) if p.name in drawers]
    assert found == []


def test_the_public_face_is_what_api_1_promised() -> None:
    promised = """
        ACTIVATIONS AttentionBatch AttentionWeights BorrowedPrimitives Buffer Communicator ConfigError ContractError
        DType Device DeclaredOverride DeviceConfig DeviceError DeviceFailedError DeviceInfo EncoderBatch EncoderWeights
        Event FfnWeights ForwardBatch HOST KVLayout LayerWeights LibraryMemoryError Linear Manifest MemorySpace
        ModelWeights MoeWeights No Norm OPS OutOfMemoryError Override PLUGIN_API PRIMITIVES Predicate
        Q4_0 Q4_1 Q4_K Q5_0 Q5_1 Q5_K Q6_K Q8_0
        QBuffer QuantScheme Region RopeTables RtpError Shape Signature Storage YES Yes dtypes
        allocated_results hookimpl host_memory_info overrides rehearsal_of reserve_host
    """
    assert set(rtp_core.plugin.__all__) == set(promised.split())
    assert all(hasattr(rtp_core.plugin, name) for name in rtp_core.plugin.__all__)
