"""Chart and table of a comparison, its processes, and the roof's arithmetic."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import gguf
import numpy as np
import pytest
from comparison import chart, roof, table
from comparison.process import EngineError, peak_rss_bytes, run, run_json


def _engine(label: str, speed: float, **more: Any) -> dict[str, Any]:
    known = {"label": label, "is_ours": False, "counts": True, "quality_mean": {}, "error": None}
    return {**known, "speeds": {"decode-b1": speed}, **more}


def _document() -> dict[str, Any]:
    engines = [
        _engine("rtp Q4_1", 300.0, is_ours=True, quality_mean={"kl": 0.002}),
        _engine("peer <A>", 200.0),
        _engine("peer far", 900.0, counts=False),
    ]
    best = {"cell": "decode-b1", "ours": "rtp Q4_1", "speed": 300.0, "peer": "peer <A>", "peer_speed": 200.0}
    shares = {"rtp Q4_1": {"decode-b1": 0.75}}
    model = {"engines": engines, "ratios": [{**best, "ratio": 1.5, "assumed": False}], "roof_shares": shares}
    return {"models": {"smollm2": model}, "threads": 2, "rounds": 3}


def test_a_chart_has_a_bar_for_each_engine_that_counts() -> None:
    root = ElementTree.fromstring(chart.as_svg(_document()))
    bars = root.findall("{*}rect")[1:]  # the first is the background
    assert [float(bar.get("width", 0)) for bar in bars] == pytest.approx([chart.WIDTH, chart.WIDTH / 1.5], abs=0.1)
    texts = [text.text for text in root.findall("{*}text")]
    assert "peer <A>  200" in texts and not any("far" in str(text) for text in texts)


def test_a_table_has_speeds_and_ratios() -> None:
    text = table.as_text(_document())
    assert "peer far (does not count)" in text
    (line,) = [line.split() for line in text.splitlines() if line.startswith("decode-b1")]
    assert line[-2:] == ["1.50", "75%"]


def test_a_process_tells_its_output_times_and_memory() -> None:
    script = (
        "import sys, time; print('a', flush=True); time.sleep(0.2); held = bytearray(64 << 20); print('{\"b\": 1}')"
    )
    finished = run([sys.executable, "-c", script])
    assert finished.output.splitlines() == ["a", '{"b": 1}']
    assert finished.wall_s - finished.first_byte_s >= 0.19
    ballast = b"x" * (256 << 20)  # of this process: none of that one's
    assert 64 << 20 <= peak_rss_bytes([sys.executable, "-c", script]) < len(ballast)
    assert run_json([sys.executable, "-c", script]) == {"b": 1}


@pytest.mark.parametrize(
    ("script", "said"), [("import sys; sys.exit('no such model')", "ended with 1: no such model"), ("", "no JSON")]
)
def test_a_process_that_fails_is_an_error_with_what_it_said(script: str, said: str) -> None:
    with pytest.raises(EngineError, match=said):
        run_json([sys.executable, "-c", script])


@pytest.mark.parametrize("is_tied", [True, False])
def test_a_decode_step_reads_every_matrix_once_and_prefill_leaves_the_head_out(tmp_path: Path, is_tied: bool) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    for name, size in (("token_embd", (50, 32)), ("output", (50, 32)), ("blk.0.ffn_up", (64, 32)), ("norm", (32,))):
        if not (is_tied and name == "output"):
            writer.add_tensor(f"{name}.weight", np.zeros(size, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert roof.work(tmp_path / "m.gguf") == roof.Work(4 * (50 * 32 + 64 * 32), 2 * 64 * 32)


def test_shares_of_the_roof() -> None:
    tops = {"2": {"read_gb_per_s": 10.0, "int8_gop_per_s": 100.0}}
    found = roof.shares({"decode-b1": 50.0, "prefill-512": 20.0, "decode-b4": 1.0}, roof.Work(10**8, 10**9), tops, 2)
    assert found == {"decode-b1": 0.5, "prefill-512": 0.2}


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_the_roof_compiles_without_warnings(tmp_path: Path) -> None:
    flags = ["-O1", "-march=native", "-pthread", "-Wall", "-Wextra", "-Werror"]
    run(["gcc", *flags, str(roof.SOURCE), "-o", str(tmp_path / "roof")])
