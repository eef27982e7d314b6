"""What the speeds of a comparison mean."""

from __future__ import annotations

import pytest
from comparison.cells import CELLS, QUICK, chosen
from comparison.ratios import Engine, assumed_ik, judged_by, medians, passing, ratios

OURS = Engine("rtp", "Q4_1", {"decode-b1": 300.0, "decode-b4": 500.0, "prefill-512": 2000.0}, kl=0.002)
Q4_1 = Engine("llama.cpp", "Q4_1", {"decode-b1": 180.0, "decode-b4": 240.0}, kl=0.003)
Q4_0 = Engine("llama.cpp", "Q4_0", {"decode-b1": 200.0, "decode-b4": 400.0}, kl=0.002)
NEAR = Engine("OpenVINO", "int8", {"decode-b1": 130.0, "decode-b4": 600.0}, kl=0.0089)
FAR = Engine("OpenVINO", "GGUF Q4_1", {"decode-b1": 900.0, "decode-b4": 900.0}, kl=0.0091)


def test_medians_are_by_cell_over_the_rounds_that_have_it() -> None:
    assert medians([{"a": 1.0, "b": 5.0}, {"a": 3.0}, {"a": 9.0, "b": 7.0}]) == {"a": 3.0, "b": 6.0}
    assert medians([]) == {}


def test_a_peer_counts_within_three_times_the_kl_of_llama_cpp_on_our_file() -> None:
    assert passing([Q4_1, Q4_0, NEAR, FAR]) == [Q4_1, Q4_0, NEAR]


def test_random_weights_are_judged_by_what_the_same_engines_do_to_others() -> None:
    speeds = {"decode-b1": 1.0}
    there = [Engine("llama.cpp", "Q4_0", speeds), Engine("OpenVINO", "GGUF Q4_0", speeds), Engine("new", "x", speeds)]
    judged = judged_by(there, [Q4_1, Q4_0, FAR])
    assert [(engine.label, engine.kl) for engine in judged] == [
        ("llama.cpp Q4_0", 0.002),
        ("OpenVINO GGUF Q4_0", 0.0091),
        ("new x", None),
    ]
    assert [engine.name for engine in passing(judged)] == ["llama.cpp", "new"]


def test_without_a_measurement_every_peer_counts() -> None:
    unmeasured = Engine("transformers", "float32", {"decode-b1": 1.0})
    assert passing([Q4_1, unmeasured]) == [Q4_1, unmeasured]
    assert passing([FAR, unmeasured]) == [FAR, unmeasured]


def test_ours_is_held_against_the_fastest_peer_that_counts() -> None:
    found = {r.cell: r for r in ratios("another", [OURS], [Q4_1, Q4_0, NEAR, FAR])}
    assert (found["decode-b1"].peer, found["decode-b1"].ratio) == ("llama.cpp Q4_0", 1.5)
    assert (found["decode-b4"].peer, found["decode-b4"].ratio) == ("OpenVINO int8", pytest.approx(5 / 6))
    assert "prefill-512" not in found  # nobody else has it


def test_ik_llama_cpp_is_assumed_from_llama_cpp_on_q4_0() -> None:
    found = {r.cell: r for r in ratios("smollm2", [OURS], [Q4_1, Q4_0])}
    assert found["decode-b1"].assumed and found["decode-b1"].peer == "ik_llama.cpp Q4_0 (assumed)"
    assert found["decode-b1"].peer_speed == pytest.approx(1.33 * 200)
    assert found["decode-b4"].peer_speed == pytest.approx(1.38 * 400)
    qwen2 = {r.cell: r for r in ratios("qwen2", [OURS], [Q4_1, Q4_0])}
    assert qwen2["decode-b1"].peer_speed == pytest.approx(1.20 * 200)


def test_ik_llama_cpp_is_not_assumed_where_it_was_measured_or_nothing_is_known() -> None:
    measured = Engine("ik_llama.cpp", "Q4_0", {"decode-b1": 250.0})
    assert assumed_ik("smollm2", [Q4_0, measured]) is None
    assert assumed_ik("smollm2", [Q4_1]) is None
    assert assumed_ik("minilm", [Q4_0]) is None


def test_a_speed_of_zero_is_no_rival() -> None:
    assert ratios("another", [OURS], [Engine("llama.cpp", "Q4_1", {"decode-b1": 0.0})]) == []


def test_cells_are_chosen_by_name() -> None:
    assert [cell.name for cell in chosen(["decode-b1", "prefill-*"])] == ["prefill-512", "decode-b1", "prefill-4096"]
    assert chosen(["*"]) == CELLS
    assert len(chosen(QUICK)) == len(QUICK)
    with pytest.raises(ValueError, match="no cell 'decode-b3'"):
        chosen(["decode-b1", "decode-b3"])
