"""The conformance suite on torch's CPU, where every missing wait is a failure: `full` op by op, and every kernel."""

from __future__ import annotations

import pytest
from lazy_device import LazyDevice, LazyGraphsDevice, LazyKernelsDevice

from rtp_core.conformance.case import LEVELS
from rtp_core.conformance.subject import Subject
from rtp_core.conformance.suite import cases, run, run_case
from rtp_core.plugin import Override
from rtp_torch.kernels import sample
from rtp_torch.kernels.tile import Tile


def test_the_device_passes_at_full() -> None:
    outcomes = list(run(Subject.of_class(LazyDevice), "full"))
    assert [outcome for outcome in outcomes if not outcome.has_passed] == []
    # No plugin provides the class, and it has no overrides.
    assert {outcome.group for outcome in outcomes} == set(LEVELS["full"]) - {"packaging", "honesty"}
    assert len(outcomes) > 2000


@pytest.mark.parametrize("group", ["contract", "composites"])
def test_an_override_of_the_tests_own_does_what_its_default_does(group: str) -> None:
    subject = Subject.of_class(LazyGraphsDevice)
    found = [case for case in cases(subject, group) if group == "contract" or "decoder_self_attention" in case.name]
    assert found
    assert [outcome.message for outcome in (run_case(case, subject) for case in found) if outcome.message] == []


@pytest.mark.parametrize("override", LazyKernelsDevice.overrides, ids=lambda override: override.op)
def test_a_kernel_does_what_its_default_does(override: Override, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits are float32 under every dtype, and an interpreter minds passes, not their width."""
    monkeypatch.setitem(sample.draw.__kwdefaults__, "tile", Tile(32, 512, 1))
    every = 6 if override.op == "sample" else 1
    subject = Subject.of_class(LazyKernelsDevice)
    found = [
        case
        for group in ("contract", "composites", "honesty")
        for case in cases(subject, group)
        if group == "contract" or case.name.startswith(f"{override.impl} ")
    ]
    outcomes = [run_case(case, subject) for case in found[::every]]
    assert [outcome for outcome in outcomes if outcome.message] == []
    assert {outcome.group for outcome in outcomes} == {"contract", "composites", "honesty"}
