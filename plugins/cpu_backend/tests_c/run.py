"""Build the kernels with sanitizers and run the driver: every kernel, every instruction set of this machine.

python plugins/cpu_backend/tests_c/run.py    # address and undefined behaviour, then data races
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
SANITIZERS = ("address,undefined", "thread")


def main() -> int:
    for sanitizer in SANITIZERS:
        with tempfile.TemporaryDirectory() as build:
            configure = ["cmake", "-S", str(HERE), "-B", build, f"-DSANITIZER={sanitizer}"]
            for command in (configure, ["cmake", "--build", build, "--parallel"]):
                step = subprocess.run(command, check=False, capture_output=True, text=True)
                if step.returncode:
                    print(step.stdout, step.stderr, sep="\n")
                    return step.returncode
            driver = subprocess.run([f"{build}/driver"], check=False)
        print(f"{sanitizer}: {'ok' if driver.returncode == 0 else f'failed with {driver.returncode}'}")
        if driver.returncode:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
