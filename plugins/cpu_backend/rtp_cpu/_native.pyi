"""The compiled module: cffi's, so what it holds is what csrc/rtp_cpu.h declares."""

from typing import Any

ffi: Any
lib: Any
