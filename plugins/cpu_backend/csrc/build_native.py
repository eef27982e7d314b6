"""Write the C source of the extension module `rtp_cpu._native`: the public header, and Python as its scratch."""

from __future__ import annotations

import sys
from pathlib import Path

from cffi import FFI

header = Path(__file__).with_name("rtp_cpu.h").read_text(encoding="ascii")
ffi = FFI()
ffi.cdef("\n".join(line for line in header.splitlines() if not line.startswith("#")))
ffi.cdef('extern "Python" void *rtp_cpu_give_scratch(void *context, int64_t bytes);')
ffi.set_source("rtp_cpu._native", '#include "rtp_cpu.h"')
ffi.emit_c_code(sys.argv[1])
