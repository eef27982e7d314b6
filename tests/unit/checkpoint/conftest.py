"""Small model files, written by the formats' own libraries."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

WriteGguf = Callable[..., Path]


@pytest.fixture(autouse=True)
def _no_stray_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("RTP_HOME", str(tmp_path_factory.mktemp("home")))
    yield


@pytest.fixture
def write_gguf(tmp_path: Path) -> WriteGguf:
    """write_gguf(tensors, metadata, arch=...): tensors are arrays, or (array, "Q4_1"): numbers, or blocks as bytes."""

    def write(
        tensors: Mapping[str, Any],
        metadata: Mapping[str, Any] | None = None,
        *,
        arch: str = "llama",
        name: str = "m.gguf",
    ) -> Path:
        path = tmp_path / name
        writer = gguf.GGUFWriter(path, arch)
        for key, value in (metadata or {}).items():
            _add(writer, key, value)
        for tensor, value in tensors.items():
            array, kind = value if isinstance(value, tuple) else (value, "F32")
            stored = gguf.GGMLQuantizationType[kind]
            as_it_is = kind in ("F32", "F16") or array.dtype == np.uint8
            data = array if as_it_is else gguf.quants.quantize(array.astype(np.float32), stored)
            writer.add_tensor(tensor, data, raw_dtype=stored)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write


def _add(writer: Any, key: str, value: Any) -> None:
    adders = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    adders.get(type(value), writer.add_array)(key, value)
