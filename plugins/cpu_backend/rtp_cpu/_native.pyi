"""The compiled module: cffi's, so what it holds is what csrc/rtp_cpu.h and csrc/build_native.py declare."""

from typing import Any

ffi: Any
lib: Any
