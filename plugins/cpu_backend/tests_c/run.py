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
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
AVX2 = {"avx2", "fma", "f16c"}
EMULATED = {  # the flags of Linux that tell of it
    "avxvnni": {"avx_vnni"},
    "avx512": {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni"},
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


def main() -> int:
    for build in builds():
        begin = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            jobs = str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
            generator = ("-G", "Ninja") if shutil.which("ninja") else ()
            configure = ("cmake", "-S", str(HERE), "-B", folder, *generator, *build.options)
            for command in (configure, ("cmake", "--build", folder, "--parallel", jobs)):
                step = subprocess.run(command, check=False, capture_output=True, text=True)
                if step.returncode:
                    print(step.stdout, step.stderr, sep="\n")
                    return step.returncode
            built = time.monotonic()
            driver = subprocess.run((*build.run, f"{folder}/driver", *build.arguments), check=False)
        times = f"{built - begin:.0f} s to build, {time.monotonic() - built:.0f} s to run"
        print(
            f"{build.name}: {'ok' if driver.returncode == 0 else f'failed with {driver.returncode}'}, {times}",
            flush=True,
        )
        if driver.returncode:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
