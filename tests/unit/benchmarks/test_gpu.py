"""The GPU's benchmark where there is none: it skips, runs rtp on the CPU, and judges figures that are made up."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gpu
import pytest
from comparison import gpu_entrants, gpu_table
from comparison.cells import Cell
from comparison.process import EngineError
from comparison.random_qwen2 import Vocabulary, write_folder
from tiny_shape import TINY_QWEN2

from rtp_core.device.loader import Plugin, State
from rtp_core.device.manifest import DeviceInfo

INFO = DeviceInfo("cuda:0", "Acme H-1 80GB", 80 << 30, 79 << 30)
ROOF = {"copy-gb-per-s": 2.0, "matmul-tflop-per-s": 0.5}
SHAPE = replace(TINY_QWEN2, max_position_embeddings=64, tie_word_embeddings=False)
TINY = gpu.Subject("qwen2-0.5b", SHAPE, (Cell("decode-b1", "decode", 1, 4, 5),))


def _installed(monkeypatch: pytest.MonkeyPatch, *plugins: Plugin) -> None:
    monkeypatch.setattr(gpu, "load_plugins", lambda kind: [plugin for plugin in plugins if plugin.kind == kind])


def test_without_a_gpu_it_says_why_and_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _installed(monkeypatch, Plugin("cuda", "rtp-cuda", "1", State.UNAVAILABLE, "no driver"))
    gpu.main(["--json", str(tmp_path / "run.json")])
    assert capsys.readouterr().out == "skipped: cuda@rtp-cuda is UNAVAILABLE: no driver\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("plugins", "said"),
    [
        ([], "no plugin for cuda is installed"),
        ([Plugin("cuda", "rtp-cuda", "1", State.BROKEN, "no torch")], "cuda@rtp-cuda is BROKEN: no torch"),
        ([Plugin("cuda", "rtp-cuda", "1", State.AVAILABLE, devices=(INFO,))], "no cuda:1: there are cuda:0"),
    ],
)
def test_what_is_not_an_absent_gpu_is_an_error(
    plugins: list[Plugin], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _installed(monkeypatch, *plugins)
    with pytest.raises(SystemExit, match=f"^{said}$"):
        gpu.main(["--device", "cuda:1"])


def test_a_quick_run_measures_rtp_in_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the CPU, whose roof would take minutes, and without transformers, which the test beside this one runs."""
    monkeypatch.setattr(gpu, "SMALL", TINY)
    monkeypatch.setattr(gpu_entrants, "_roof", lambda device, repeats: ROOF)
    file = tmp_path / "run.json"
    options = ["--work", str(tmp_path / "work"), "--json", str(file), "--transformers", str(tmp_path / "none")]
    gpu.main(["--device", "cpu", "--quick", *options])
    document = json.loads(file.read_text())
    roof, ours = document["models"]["qwen2-0.5b"]["engines"]
    assert roof["speeds"] == ROOF
    assert (ours["label"], ours["error"]) == ("rtp bfloat16", None) and ours["speeds"]["decode-b1"] > 0
    assert {target["model"]: target["why"] for target in document["targets"]} == {
        "qwen2-7b": "left out by --quick",
        "qwen2-0.5b": "no decode-b1 of transformers",
    }
    assert f"decode-b1\nrtp bfloat16  {ours['speeds']['decode-b1']:>9.1f}\n" in capsys.readouterr().out


def _benchmark(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, runs: dict[str, Any], info: DeviceInfo = INFO
) -> dict[str, Any]:
    """The last document of a run of tiny models whose engines answer with `runs`."""
    subjects = [TINY, gpu.Subject("qwen2-7b", SHAPE, TINY.cells)]
    for subject in subjects:
        write_folder(gpu.random_folder(tmp_path, subject.name), SHAPE, Vocabulary.of_bytes())
    monkeypatch.setattr(gpu, "runs", lambda *_: runs)
    asked = gpu._arguments(["--work", str(tmp_path), "--rounds", "3"])
    *_, document = gpu.benchmark(subjects, info, asked)
    return document


def test_targets_are_judged_by_medians_of_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def answers(*speeds: float) -> Any:
        of_both = iter([*speeds, *speeds])
        return lambda: {"decode-b1": next(of_both)}

    runs = {"roof torch": lambda: ROOF, "rtp bfloat16": answers(10, 90, 40), "transformers sdpa": answers(9, 10, 90)}
    document = _benchmark(monkeypatch, tmp_path, runs)
    value = {target["model"]: target for target in document["targets"]}["qwen2-0.5b"]
    assert (value["value"], value["needed"], value["is_met"]) == (4.0, 3.0, True)
    text = gpu_table.as_text(document)
    (line,) = [line for line in text.splitlines() if line.startswith("qwen2-0.5b decode-b1")]
    assert line.split()[-3:] == ["3.00", "4.00", "met"]
    assert gpu.failures(document) == []


def test_an_engine_that_fails_is_told_and_only_ours_fails_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> Any:
        raise EngineError("ended with 1")

    runs = {"roof torch": lambda: ROOF, "rtp bfloat16": fails, "transformers eager": fails}
    document = _benchmark(monkeypatch, tmp_path, runs)
    assert gpu.failures(document) == ["rtp bfloat16: ended with 1"] * 2
    assert "transformers eager: ended with 1" in gpu_table.as_text(document)
    assert "not measured: no decode-b1 of rtp" in gpu_table.as_text(document)


def test_a_model_that_does_not_fit_is_left_out_with_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = _benchmark(monkeypatch, tmp_path, {}, DeviceInfo("cuda:0", "small", 2 << 30, 1 << 30))
    assert document["models"] == {}
    assert {target["why"] for target in document["targets"]} == {"device memory: 2.0 GiB needed, 1.0 GiB free"}


def test_a_file_is_named_after_the_gpu() -> None:
    assert gpu.slug("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"
    assert gpu.slug("AMD Instinct MI300X, gfx942") == "amd-instinct-mi300x-gfx942"


def test_who_takes_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_entrants, "is_there", lambda interpreter, package: package == "flash_attn")
    found = gpu_entrants.runs(Path("m"), TINY.cells, "rocm:1", "python", 3)
    ways = [f"transformers {way}" for way in ("eager", "sdpa", "flash", "sdpa compiled")]
    assert list(found) == ["roof torch", "rtp bfloat16", *ways]
    peers = {peer.variant: peer.command for peer in gpu_entrants.peers(Path("m"), "rocm:1", "python")}
    assert peers["sdpa compiled"][2:] == (
        *("m", "--dtype", "bfloat16", "--device", "cuda:1", "--attention", "sdpa", "--compile"),
    )
    assert list(gpu_entrants.runs(Path("m"), TINY.cells, "cuda", None, 3)) == ["roof torch", "rtp bfloat16"]
