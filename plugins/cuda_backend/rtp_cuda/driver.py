"""NVIDIA's driver library through ctypes: what a probe asks, before torch is imported."""

from __future__ import annotations

import ctypes
from ctypes import byref, c_char_p, c_int, c_size_t, c_uint, c_void_p
from dataclasses import dataclass
from typing import Any

LIBRARY = "libcuda.so.1"
NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*


class DriverError(Exception):
    """A call failed; `code` is a CUresult."""

    def __init__(self, call: str, code: int, text: str) -> None:
        super().__init__(f"{call} failed with {code}: {text}")
        self.code = code


@dataclass(frozen=True, slots=True)
class DriverDevice:
    name: str
    capability: tuple[int, int]
    total_bytes: int
    free_bytes: int


class Driver:
    """Raises OSError where the library is not there, DriverError where it cannot be used."""

    def __init__(self, library: str = LIBRARY) -> None:
        self._lib = ctypes.CDLL(library)
        self._call("cuInit", c_uint(0))

    @property
    def version(self) -> tuple[int, int]:
        """Of CUDA, the newest that it serves."""
        number = c_int()
        self._call("cuDriverGetVersion", byref(number))
        return number.value // 1000, number.value % 1000 // 10

    def devices(self) -> list[DriverDevice]:
        """Those that CUDA_VISIBLE_DEVICES leaves, in torch's order."""
        count = c_int()
        self._call("cuDeviceGetCount", byref(count))
        return [self._device(index) for index in range(count.value)]

    def _device(self, index: int) -> DriverDevice:
        device, name = c_int(), ctypes.create_string_buffer(256)
        self._call("cuDeviceGet", byref(device), c_int(index))
        self._call("cuDeviceGetName", name, c_int(len(name)), device)
        capability = self._attribute(_CAPABILITY_MAJOR, device), self._attribute(_CAPABILITY_MINOR, device)
        # Only a context knows what is free. It goes with this process, which only probes.
        context, free, total = c_void_p(), c_size_t(), c_size_t()
        self._call("cuDevicePrimaryCtxRetain", byref(context), device)
        try:
            self._call("cuCtxSetCurrent", context)
            self._call("cuMemGetInfo_v2", byref(free), byref(total))
        finally:
            self._call("cuDevicePrimaryCtxRelease_v2", device)
        return DriverDevice(name.value.decode(errors="replace"), capability, total.value, free.value)

    def _attribute(self, attribute: int, device: c_int) -> int:
        value = c_int()
        self._call("cuDeviceGetAttribute", byref(value), c_int(attribute), device)
        return value.value

    def _call(self, name: str, *args: Any) -> None:
        code = getattr(self._lib, name)(*args)
        if code:
            text = c_char_p()
            self._lib.cuGetErrorString(c_int(code), byref(text))
            raise DriverError(name, code, (text.value or b"an unknown error").decode(errors="replace"))
