"""Build the kernels with sanitizers and run the driver: every kernel, every instruction set.

    python plugins/cpu_backend/tests_c/run.py

Three builds: addresses and undefined behaviour, where sets that this machine lacks are emulated (libsimde-dev); data
races, of the portable kernels; and those of aarch64 (gcc-aarch64-linux-gnu, qemu-user). What is not installed is
skipped, and said.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
AVX2 = {"avx2", "fma", "f16c"}
EMULATED = {  # the flags of Linux that tell of it
    "avxvnni": {"avx_vnni"},
    "avx512": {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni"},
    "avx512bf16": {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni", "avx512_bf16"},
}
ARM_COMPILER, ARM_EMULATOR, ARM_ROOT = "aarch64-linux-gnu-gcc", "qemu-aarch64", "/usr/aarch64-linux-gnu"


@dataclass(frozen=True)
class Build:
    name: str
    options: tuple[str, ...]  # of cmake
    run: tuple[str, ...] = ()  # what the driver runs in
    arguments: tuple[str, ...] = ()


def builds() -> Iterator[Build]:
    emulated = ";".join(emulated_isas())
    yield Build("addresses", ("-DSANITIZER=address,undefined", f"-DRTP_CPU_EMULATED={emulated}"))
    yield Build("races", ("-DSANITIZER=thread", "-DRTP_CPU_ISAS=portable"), arguments=("brief",))
    if platform.machine() in ("aarch64", "arm64"):
        return
    missing = [tool for tool in (ARM_COMPILER, ARM_EMULATOR) if shutil.which(tool) is None]
    if missing:
        print(f"aarch64: skipped, no {' and no '.join(missing)}", flush=True)
        return
    target = (f"-DCMAKE_C_COMPILER={ARM_COMPILER}", "-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64")
    yield Build("aarch64", ("-DSANITIZER=undefined", *target), (ARM_EMULATOR, "-L", ARM_ROOT), ("brief",))


def emulated_isas() -> list[str]:
    """Those that this machine lacks and can emulate: with AVX2 and the headers of SIMD Everywhere."""
    flags: set[str] = set()
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("flags"):
                flags = set(line.split())
                break
    lacking = [isa for isa, needed in EMULATED.items() if not needed <= flags]
    if not lacking or platform.machine() not in ("x86_64", "AMD64"):
        return []
    if flags >= AVX2 and has_header("simde/x86/avx512.h"):
        return lacking
    print(
        f"{', '.join(lacking)}: skipped, this machine lacks them and emulates none without AVX2 and libsimde-dev",
        flush=True,
    )
    return []


def has_header(name: str) -> bool:
    compiler = shlex.split(os.environ.get("CC", "cc"))
    if shutil.which(compiler[0]) is None:
        return False
    probe = (*compiler, "-E", "-include", name, "-x", "c", os.devnull)
    return subprocess.run(probe, check=False, capture_output=True).returncode == 0


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def compiled(build: Build, folder: Path) -> Path:
    """The driver. Raises CalledProcessError, with what the compiler said."""
    generator = ("-G", "Ninja") if shutil.which("ninja") else ()
    begin = time.monotonic()
    for command in (
        ("cmake", "-S", str(HERE), "-B", str(folder), *generator, *build.options),
        ("cmake", "--build", str(folder), "--parallel", str(cores())),
    ):
        subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(f"{build.name}: {time.monotonic() - begin:.0f} s to build", flush=True)
    return folder / "driver"


def has_passed(build: Build, driver: Path) -> bool:
    """Whether the driver ends well; what it says is printed once it has."""
    begin = time.monotonic()
    command = (*build.run, str(driver), *build.arguments)
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    verdict = "ok" if done.returncode == 0 else f"failed with {done.returncode}"
    print(f"{done.stdout}{build.name}: {verdict}, {time.monotonic() - begin:.0f} s to run", flush=True)
    return done.returncode == 0


def main() -> int:
    wanted = list(builds())
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(cores()) as pool:
        try:
            drivers = [compiled(build, Path(folder) / build.name) for build in wanted]
        except subprocess.CalledProcessError as error:
            print(error.stdout)
            return error.returncode
        return 0 if all(list(pool.map(has_passed, wanted, drivers))) else 1


if __name__ == "__main__":
    sys.exit(main())
