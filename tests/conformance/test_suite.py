"""The suite passes our own devices, covers whatever op there is, and runs a real model's shapes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from rtp_core.conformance import settings
from rtp_core.conformance.call import Operands
from rtp_core.conformance.case import GROUPS, LEVELS, RESTS_ON, Outcome
from rtp_core.conformance.isolated import run_isolated
from rtp_core.conformance.primitive_operands import PRIMITIVE_OPERANDS
from rtp_core.conformance.replay import read_replay
from rtp_core.conformance.settings import BY_OP
from rtp_core.conformance.subject import Subject
from rtp_core.conformance.suite import CASES, cases, run_case
from rtp_core.device.op import OpSpec, Override
from rtp_core.device.reference import ReferenceDevice
from rtp_core.errors import ConfigError
from rtp_core.plugin import OPS, Device


@pytest.fixture
def subject() -> Subject:
    return Subject.of_class(ReferenceDevice)


@pytest.mark.parametrize("kind", ["ref", "cpu", "handle"])
def test_our_own_devices_pass_at_full(kind: str) -> None:
    run = run_isolated(kind, "full")
    assert [outcome for outcome in run.outcomes if not outcome.has_passed] == []
    groups = {outcome.group for outcome in run.outcomes}
    assert groups == set(LEVELS["full"]) - ({"honesty"} if kind == "ref" else set())  # it has no overrides
    assert len(run.outcomes) > 2000


def test_a_device_that_computes_nothing_fails_in_primitives() -> None:
    run = run_isolated("recorder", "primitive")
    failed = {outcome.group for outcome in run.outcomes if not outcome.has_passed}
    assert failed == {"primitives"}
    assert not any(o.has_passed for o in run.outcomes if o.group == "primitives")


def test_no_two_cases_of_a_group_have_one_name(subject: Subject) -> None:
    for group in GROUPS:
        names = [case.name for case in cases(subject, group)]
        assert len(names) == len(set(names)), group


def test_groups_rest_on_earlier_groups_only() -> None:
    assert tuple(RESTS_ON) == tuple(CASES) == GROUPS
    for group, foundations in RESTS_ON.items():
        assert all(GROUPS.index(foundation) < GROUPS.index(group) for foundation in foundations)


def outcome_of(subject: Subject, group: str, name: str) -> Outcome:
    (case,) = [case for case in cases(subject, group) if case.name == name]
    return run_case(case, subject)


def test_every_op_and_every_feature_of_one_is_covered() -> None:
    assert list(settings.uncovered()) == []
    assert set(BY_OP) == set(OPS)


@pytest.mark.parametrize(("level", "group"), [(0, "primitives"), (2, "composites")])
def test_a_new_op_is_missed_by_name(subject: Subject, monkeypatch: pytest.MonkeyPatch, level: int, group: str) -> None:
    like = OPS["linear"]
    monkeypatch.setitem(OPS, "fuse_all", OpSpec("fuse_all", level, like.signature, {}, frozenset(), (1, 1)))
    outcome = outcome_of(subject, group, "fuse_all is covered")
    assert outcome.message == "expected operands for the op fuse_all, got none: add them to the suite"


def test_a_new_feature_is_missed_by_name(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    linear = OPS["linear"]
    grown = OpSpec("linear", 2, linear.signature, {}, linear.features | {"tree_mask"}, (1, 0))
    monkeypatch.setitem(OPS, "linear", grown)
    assert "linear with tree_mask" in outcome_of(subject, "composites", "linear is covered").message


def test_a_new_op_with_operands_is_tested_on_every_device(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    add = OPS["add"]
    monkeypatch.setitem(OPS, "plus", OpSpec("plus", 0, add.signature, {}, frozenset(), (1, 1)))
    monkeypatch.setattr(ReferenceDevice, "plus", ReferenceDevice.add, raising=False)
    again = {one.name: one for one in PRIMITIVE_OPERANDS if one.op == "add"}
    operands = tuple(type(one)("plus", name, one.make) for name, one in again.items())
    monkeypatch.setattr(settings, "BY_OP", {**BY_OP, "plus": operands})
    found = [case for case in cases(subject, "primitives") if case.name.startswith("plus ")]
    assert len(found) == len(operands) * 27  # dtypes x rows x layouts
    assert all(run_case(case, subject).has_passed for case in found)


def test_an_override_is_tried_with_each_feature_on_and_off(subject: Subject) -> None:
    override = Override("decoder_layer", "x.layer", 100, frozenset({"bias", "qk_norm"}), None, Device.decoder_layer)
    tried = {s.features for s in settings.override_settings("decoder_layer", subject.manifest)}
    assert {f for f in tried if f <= override.handles} == {
        frozenset(),
        frozenset({"bias"}),
        frozenset({"qk_norm"}),
        frozenset({"bias", "qk_norm"}),
    }


@pytest.mark.parametrize(
    "one",
    [one for op, ways in BY_OP.items() if not OPS[op].is_primitive for one in ways],
    ids=lambda one: f"{one.op} {one.name}",
)
def test_a_default_meets_all_that_an_override_meets_but_not_each_with_each(one: Operands) -> None:
    manifest = ReferenceDevice.manifest
    by_default, by_override = (
        {setting for setting in settings_of(one.op, manifest) if setting.operands == one}
        for settings_of in (settings.default_settings, settings.override_settings)
    )
    assert by_default <= by_override
    for word in ("dtype", "scheme", "features", "rows"):
        assert {getattr(s, word) for s in by_default} == {getattr(s, word) for s in by_override}, word
    assert {(s.dtype, s.rows) for s in by_default} == {(s.dtype, s.rows) for s in by_override}
    if one.weights == "any":
        assert {(s.scheme, s.dtype) for s in by_override} == set(
            product(one.schemes(manifest.schemes), manifest.dtypes)
        )
        assert sum(s.scheme != "none" for s in by_default) == len(manifest.schemes)


def test_a_manifest_of_one_dtype_and_no_scheme_has_its_settings(subject: Subject) -> None:
    manifest = replace(subject.manifest, dtypes=("float32",), schemes=())
    assert {s.scheme for s in settings.default_settings("linear", manifest)} == {"none"}
    assert {(s.rows, s.features) for s in settings.default_settings("linear", manifest)} == {
        (0, frozenset()),
        (1, frozenset({"bias"})),
        (5, frozenset()),
    }


# -- replay --------------------------------------------------------------------------------------------------------


def test_a_model_is_replayed_in_its_own_sizes_and_schemes(default_model_path: Path) -> None:
    replay = read_replay(str(default_model_path), ReferenceDevice.manifest)
    assert (replay.dims.hidden_size, replay.dims.intermediate_size, replay.dims.head_dim) == (576, 1536, 64)
    assert replay.schemes["ffn_layer"] >= {"q4_1"}
    assert replay.features["qkv_linear"] == frozenset()
    subject = Subject.of_class(ReferenceDevice)
    subject.replay = replay
    for group in ("primitives", "composites"):
        found = [case for case in cases(subject, group) if case.name.removeprefix("default ").startswith(replay.name)]
        assert found
        assert [run_case(case, subject).message for case in found[:3]] == [""] * 3


def plan(**document: object) -> dict[str, object]:
    row: Mapping[str, object] = {
        "op": "linear", "level": 2, "phase": "any", "dtype": "float32", "scheme": "q4_0+none", "features": ["bias"],
        "impl": "default.linear", "source": "default", "rejected": [],
    }  # fmt: skip
    return {"schema": 1, "plan": [row], "hash": "", **document}


def test_a_saved_plan_is_replayed(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    dims = {
        "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1,
        "head_dim": 16, "vocab_size": 40, "num_hidden_layers": 1,
    }  # fmt: skip
    path.write_text(json.dumps(plan(dims=dims)))
    replay = read_replay(str(path), ReferenceDevice.manifest)
    tried = list(settings.replayed(replay, ReferenceDevice.manifest, "float32"))
    assert {(s.op, s.scheme, tuple(s.features), s.dims.hidden_size) for s in tried} == {
        ("linear", "none", ("bias",), 32),
        ("linear", "q4_0", ("bias",), 32),
    }


def test_a_plan_without_sizes_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan()))
    with pytest.raises(ConfigError, match="no sizes"):
        read_replay(str(path), ReferenceDevice.manifest)
