"""The plan: what is chosen and why, under which features, what shadows what, and what a saved plan is good for."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from rtp_core.device import choice
from rtp_core.device.call_graph import call_graph, reachable
from rtp_core.device.choice import Offer, Wishes
from rtp_core.device.op import composite
from rtp_core.device.plan import PHASES, Demand, Plan, PlanRow, as_json, explained_rows, plan_hash, resolve
from rtp_core.device.plan_lock import Change, check_lock, check_required, differences, read_plan
from rtp_core.device.reference import ReferenceDevice
from rtp_core.errors import ConfigError, ContractError, PlanError
from rtp_core.memory.space import reserve_host
from rtp_core.models import llama
from rtp_core.plugin import (
    OPS,
    PRIMITIVES,
    YES,
    DeclaredOverride,
    Device,
    DeviceConfig,
    DeviceInfo,
    Manifest,
    No,
    Override,
    overrides,
)

FLOAT = Demand("float32", assembly=llama.forward)
COMPOSITES = [op for op, spec in OPS.items() if not spec.is_primitive]


def row(rows: Any, op: str, phase: str = "prefill") -> PlanRow:
    (found,) = [r for r in rows if r.op == op and r.phase in ("any", phase)]
    return found


def implementation(op: str) -> Callable[..., Any]:
    """A function with the parameters of an op, none of its tagged ones, that gives its first operand back."""
    spec = OPS[op]

    def override(self: Any, *operands: Any, **options: Any) -> Any:
        return operands[0]

    kept = [p for p in spec.signature.parameters.values() if p.name not in spec.options]
    override.__signature__ = spec.signature.replace(parameters=kept)  # type: ignore[attr-defined]
    return override


def device_with(*declared: tuple[str, str, dict[str, Any]]) -> Device:
    """A device of the reference with overrides: (op, impl, options of `overrides`)."""
    body = {
        f"_{i}": overrides(op, impl=impl, **options)(implementation(op))
        for i, (op, impl, options) in enumerate(declared)
    }
    cls = type("AcmeDevice", (ReferenceDevice,), body)
    return cls(DeviceInfo("acme:0", "test", 1 << 30, 1 << 30), DeviceConfig(memory_budget=1 << 20))


# -- choosing: against a model that anybody can check --------------------------------------------------------------


@dataclass(frozen=True)
class Invented:
    """An override, and what is to be true of it."""

    impl: str
    priority: int
    handles: frozenset[str]
    refuses: str | None  # the phase in which its predicate says no
    is_disabled: bool
    wish: int | None  # its place in the user's order


INVENTED = st.builds(
    lambda priority, handles, refuses, is_disabled, wish: Invented(
        f"acme.i{priority}", priority, frozenset(handles), refuses, is_disabled, wish
    ),
    st.integers(0, 50),
    st.sets(st.sampled_from(["bias", "other"])),
    st.sampled_from([None, "prefill", "decode"]),
    st.booleans(),
    st.none() | st.integers(0, 9),
)


def naive_choice(declared: list[Invented], phase: str, features: set[str], default_wish: int | None) -> str:
    """Sort by (wished or not, wish, priority), take the first that may."""
    entries = [((0, i.wish, 0) if i.wish is not None else (1, -i.priority, 0), i.impl, i) for i in declared]
    entries.append(((0, default_wish, 1) if default_wish is not None else (2, 0, 0), "default.ffn_layer", None))
    for _, impl, i in sorted(entries, key=lambda e: (e[0], e[1])):
        if i is None or (not i.is_disabled and features <= i.handles and i.refuses != phase):
            return impl
    raise AssertionError("a default always may")


@settings(deadline=None, max_examples=150)
@given(
    st.lists(INVENTED, max_size=6, unique_by=lambda i: i.priority),
    st.booleans(),
    st.none() | st.integers(0, 9),
    st.randoms(use_true_random=False),
)
def test_the_choice_is_that_of_a_naive_model_and_every_other_candidate_has_a_reason(
    declared: list[Invented], has_bias: bool, default_wish: int | None, random: Any
) -> None:
    def predicate(i: Invented) -> Any:
        return None if i.refuses is None else lambda s: No(f"not in {s.phase}") if s.phase == i.refuses else YES

    def offered(order: list[Invented]) -> Offer:
        made = [Override("ffn_layer", i.impl, i.priority, i.handles, predicate(i), predicate) for i in order]
        return Offer("acme:0", "acme", tuple(made))

    wishes = sorted((i.wish, 0, i.impl) for i in declared if i.wish is not None)
    wishes += [] if default_wish is None else [(default_wish, 1, "default.ffn_layer")]
    user = Wishes(
        frozenset(i.impl for i in declared if i.is_disabled),
        {"ffn_layer": tuple(impl for _, _, impl in sorted(wishes))} if wishes else {},
    )
    demand = replace(FLOAT, features={"ffn_layer": frozenset({"bias"} if has_bias else ())})
    rows = explained_rows(offered(declared), demand, user)
    for phase in PHASES:
        found = row(rows, "ffn_layer", phase)
        assert found.impl == naive_choice(declared, phase, {"bias"} if has_bias else set(), default_wish)
        others = {i.impl for i in declared} - {found.impl}
        assert {r.impl for r in found.rejected} == others
        assert len(found.rejected) == len(others)
        assert all(r.reason for r in found.rejected)
    shuffled = random.sample(declared, len(declared))
    again = explained_rows(offered(shuffled), demand, user)
    assert again == rows
    assert plan_hash(again) == plan_hash(rows)


@pytest.mark.parametrize("answer", [No(""), No("  "), True, None])
def test_a_no_without_a_reason_is_no_answer(answer: Any) -> None:
    device = device_with(("ffn_layer", "acme.ffn", {"when": lambda s: answer}))
    with pytest.raises(ContractError, match=r"predicate of acme\.ffn answered.*expected YES or No\(reason\)"):
        resolve(device, FLOAT)


def test_a_predicate_that_raises_is_named_with_what_it_raised_and_what_disables_it() -> None:
    def broken(s: Any) -> Any:
        raise KeyError("head_dim")

    device = device_with(("ffn_layer", "acme.ffn", {"when": broken}))
    with pytest.raises(ContractError, match=r"predicate of acme\.ffn failed.*KeyError.*--disable-impl acme\.ffn") as e:
        resolve(device, FLOAT)
    assert isinstance(e.value.__cause__, KeyError)
    plan = resolve(device, FLOAT, disabled=frozenset({"acme.ffn"}))  # which is true
    assert row(plan.rows, "ffn_layer").source == "default"


# -- the user's order ----------------------------------------------------------------------------------------------


@pytest.fixture
def two() -> Device:
    return device_with(
        ("ffn_layer", "acme.fast", {"priority": 200}),
        ("ffn_layer", "acme.slow", {"handles": {"bias"}}),
        ("linear", "acme.linear", {}),
    )


def test_the_users_order_beats_priority_and_shows_in_the_reasons(two: Device) -> None:
    plan = resolve(two, FLOAT, preferred={"ffn_layer": ("acme.slow",)})
    found = row(plan.rows, "ffn_layer")
    assert (found.impl, found.preferred) == ("acme.slow", True)
    assert [(r.impl, r.reason) for r in found.rejected] == [("acme.fast", "acme.slow is preferred (--prefer)")]
    assert not row(plan.rows, "linear").preferred


def test_the_users_order_never_beats_the_closed_world(two: Device) -> None:
    demand = replace(FLOAT, features={"ffn_layer": frozenset({"bias"})})
    found = row(resolve(two, demand, preferred={"ffn_layer": ("acme.fast",)}).rows, "ffn_layer")
    assert (found.impl, found.preferred) == ("acme.slow", False)
    assert [(r.impl, r.reason) for r in found.rejected] == [("acme.fast", "does not handle bias")]


def test_a_default_can_be_preferred_too(two: Device) -> None:
    plan = resolve(two, FLOAT, preferred={"ffn_layer": ("default.ffn_layer",)})
    assert row(plan.rows, "ffn_layer").impl == "default.ffn_layer"
    assert {r.impl for r in row(plan.rows, "ffn_layer").rejected} == {"acme.fast", "acme.slow"}
    assert plan.ops("decode").ffn_layer.__func__ is Device.ffn_layer


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"fnn_layer": ("acme.fast",)}, r"no op 'fnn_layer' to prefer.*ops are .*ffn_layer"),
        (
            {"ffn_layer": ("acme.linear",)},
            r"no implementation acme\.linear of ffn_layer.*acme\.fast, acme\.slow, defau",
        ),
        ({"gemm": ("acme.gemm",)}, "a primitive has one implementation"),
    ],
)
def test_wishes_for_what_is_not_there_are_errors_that_list_what_is(
    two: Device, wish: dict[str, tuple[str, ...]], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        resolve(two, FLOAT, preferred=wish)


# -- borrowed, shadowed, conditional -------------------------------------------------------------------------------


def test_a_borrowed_primitive_is_a_source_of_its_own() -> None:
    def gemm(self: Any, a: Any, b: Any, *, bias: Any = None, trans_b: bool = False, out: Any = None) -> Any:
        return ReferenceDevice.gemm(self, a, b, bias=bias, trans_b=trans_b, out=out)

    gemm.__rtp_borrowed__ = True  # type: ignore[attr-defined]
    cls = type("Borrowing", (ReferenceDevice,), {"gemm": gemm})
    plan = resolve(cls(DeviceInfo("acme:0", "t", 1 << 30, 1 << 30), DeviceConfig(memory_budget=1 << 20)), FLOAT)
    sources = {r.op: r.source for r in plan.rows if r.op in PRIMITIVES}
    assert sources == {op: "borrowed" if op == "gemm" else "primitive" for op in PRIMITIVES}
    with pytest.raises(PlanError, match="gemm is borrowed"):
        check_required(plan, ["gemm", "add"])


def test_the_call_graph_is_read_from_the_defaults_and_the_models_own_assembly() -> None:
    graph = call_graph(llama.forward)
    assert graph["ffn_layer"] == {"linear", "gated_activation", "gemm_activation"}  # through a private helper
    assert graph["linear"] == {"gemm"}
    assert graph["model_forward"] == {"gather_rows", "decoder_layer", "add_norm"}
    assert graph["concat"] == frozenset()  # `copy` is a service
    below = reachable(graph)
    assert {"attention_layer", "softmax", "kv_write"} <= below["model_forward"]
    assert "lm_head" not in below["model_forward"]


def test_every_call_of_an_op_is_in_the_call_graph(recorder_device: Any) -> None:
    """The graph against what a device really sees when defaults run: every primitive that was called is reachable."""
    import numpy as np

    from rtp_core.plugin import FfnWeights, Linear

    up, down = (recorder_device.upload(np.zeros(shape, np.float32), "w") for shape in ((24, 8), (8, 12)))
    x = recorder_device.upload(np.zeros((4, 8), np.float32), "x")
    recorder_device.calls.clear()
    resolve(recorder_device, FLOAT).ops("prefill").ffn_layer(x, FfnWeights((Linear(up),), Linear(down), "silu"))
    called = {call.op for call in recorder_device.calls} & set(PRIMITIVES)
    assert called == {"gemm", "activation", "mul"}
    assert called <= reachable(call_graph())["ffn_layer"]


def test_a_chosen_override_shadows_what_its_default_would_have_called() -> None:
    device = device_with(
        ("ffn_layer", "acme.ffn", {}),
        ("gated_activation", "acme.gated", {}),
        ("qkv_linear", "acme.qkv", {}),
        ("decoder_layer", "acme.layer", {"when": lambda s: YES if s.phase == "decode" else No("prefill")}),
    )
    rows = resolve(device, FLOAT).rows
    assert row(rows, "gated_activation", "prefill").shadowed_by == ("acme.ffn",)
    assert row(rows, "gated_activation", "decode").shadowed_by == ("acme.layer", "acme.ffn")
    assert row(rows, "linear", "prefill").shadowed_by == ("acme.ffn", "acme.qkv")
    assert row(rows, "ffn_layer", "prefill").shadowed_by == ()
    assert row(rows, "ffn_layer", "decode").shadowed_by == ("acme.layer",)
    assert row(rows, "lm_head").shadowed_by == ()
    assert row(rows, "lm_head").phase == "any"


def test_a_manifest_alone_gives_the_plan_with_conditional_rows() -> None:
    manifest = Manifest(
        kind="acme",
        vendor="acme",
        api=(1, 0),
        device_class="accelerator",
        dtypes=("float32",),
        overrides=(
            DeclaredOverride("ffn_layer", "acme.slow", 1),
            DeclaredOverride("ffn_layer", "acme.fast", 2, is_conditional=True),
            DeclaredOverride("linear", "acme.linear", handles=frozenset({"bias"})),
        ),
    )
    demand = replace(FLOAT, features={"linear": frozenset({"bias"})})
    rows = explained_rows(Offer.of_manifest(manifest), demand, Wishes())
    found = row(rows, "ffn_layer")
    assert (found.impl, found.conditional) == ("acme.fast", True)
    assert found.rejected[0].reason == "priority 1 is below acme.fast, if that one's predicate agrees"
    assert (row(rows, "linear").impl, row(rows, "linear").conditional) == ("acme.linear", False)
    assert row(rows, "gemm").impl == "acme.gemm"


def test_manifest_and_device_agree_where_every_predicate_says_yes(two: Device) -> None:
    told = explained_rows(
        Offer("acme", "ref", tuple(o.declared for o in two.overrides)),
        FLOAT,
        Wishes(preferred={"ffn_layer": ("acme.slow",)}),
    )
    assert told == resolve(two, FLOAT, preferred={"ffn_layer": ("acme.slow",)}).rows


# -- features of requests ------------------------------------------------------------------------------------------

NEW = "invented"  # a feature that no released core has


def give_option(monkeypatch: pytest.MonkeyPatch, op: str) -> None:
    """What a later core does: one more keyword-only, tagged option of an op."""
    spec = OPS[op]
    *operands, last = spec.signature.parameters.values()
    extra = inspect.Parameter("extra", inspect.Parameter.KEYWORD_ONLY, default=None)
    parameters = [*operands, extra, last] if last.name == "out" else [*operands, last, extra]
    later = replace(
        spec,
        signature=spec.signature.replace(parameters=parameters),
        options={**spec.options, "extra": NEW},
        features=spec.features | {NEW},
    )
    monkeypatch.setitem(OPS, op, later)


@pytest.mark.parametrize("op", COMPOSITES)
def test_every_override_of_an_op_or_of_what_calls_it_steps_aside_for_a_request_with_a_new_feature(
    op: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = device_with(*((name, f"acme.{name}", {"handles": set(OPS[name].features)}) for name in COMPOSITES))
    give_option(monkeypatch, op)  # after the class was defined, as for a wheel that was built before
    plan = resolve(device, FLOAT, dynamic=frozenset({NEW}))
    above = {name for name, reached in reachable(call_graph(llama.forward)).items() if op in reached} | {op}
    served = {r.op: r.impl for r in plan.sheets[frozenset({NEW})]}
    for name in COMPOSITES:
        assert served[name] == (f"default.{name}" if name in above else f"acme.{name}")
        assert row(plan.rows, name).impl == f"acme.{name}"
    for name in above:
        found = row(plan.sheets[frozenset({NEW})], name)
        assert [(r.impl, r.reason) for r in found.rejected] == [(f"acme.{name}", f"does not handle {NEW}")]
        assert NEW in found.features
    for phase in PHASES:
        plain, featured = plan.ops(phase), plan.ops(phase, frozenset({NEW}))
        assert getattr(plain, op).__func__ is not getattr(Device, op)
        assert getattr(featured, op).__func__ is getattr(Device, op)
    assert plan.hash == resolve(device, FLOAT).hash


def test_classes_defined_after_the_option_may_leave_it_out_or_handle_it(monkeypatch: pytest.MonkeyPatch) -> None:
    give_option(monkeypatch, "ffn_layer")

    class OptedIn(ReferenceDevice):
        @overrides("ffn_layer", impl="acme.old", priority=1)
        def _old(self, x: Any, weights: Any, *, out: Any = None) -> Any:
            return x

        @overrides("ffn_layer", impl="acme.new", priority=2, handles={NEW})
        def _new(self, x: Any, weights: Any, *, extra: Any = None, out: Any = None) -> Any:
            return x

    monkeypatch.undo()
    with pytest.raises(ContractError, match="expected parameters"):
        type("Old", (OptedIn,), {"_again": overrides("ffn_layer", impl="a.b", priority=3)(OptedIn._new)})
    give_option(monkeypatch, "ffn_layer")
    device = OptedIn(DeviceInfo("acme:0", "t", 1 << 30, 1 << 30), DeviceConfig(memory_budget=1 << 20))
    plan = resolve(device, FLOAT, dynamic=frozenset({NEW}), disabled=frozenset({"acme.new"}))
    assert row(plan.rows, "ffn_layer").impl == "acme.old"
    assert row(plan.sheets[frozenset({NEW})], "ffn_layer").impl == "default.ffn_layer"
    plan = resolve(device, FLOAT, dynamic=frozenset({NEW}))
    assert row(plan.sheets[frozenset({NEW})], "ffn_layer").impl == "acme.new"


def test_there_is_a_table_for_every_phase_and_set_and_equal_ones_are_one(two: Device) -> None:
    plan = resolve(two, FLOAT, dynamic=frozenset({"bias", "qk_norm", "moe"}))
    assert set(plan.sheets) == {
        frozenset(names)
        for names in ([], ["bias"], ["moe"], ["qk_norm"], ["bias", "moe"], ["bias", "qk_norm"], ["moe", "qk_norm"])
    } | {frozenset({"bias", "qk_norm", "moe"})}
    assert plan.dynamic == {"bias", "qk_norm", "moe"}
    assert plan.ops("decode", frozenset({"moe"})) is plan.ops("prefill")
    assert plan.ops("decode", frozenset({"bias"})) is plan.ops("prefill", frozenset({"bias", "moe"}))
    assert plan.ops("decode", frozenset({"bias"})) is not plan.ops("decode")
    with pytest.raises(KeyError):
        plan.ops("decode", frozenset({"layer_norm"}))


def test_the_same_choices_serve_on_a_twin(two: Device) -> None:
    plan, twin = resolve(two, FLOAT, dynamic=frozenset({"bias"})), two.over(reserve_host(1 << 20))
    moved = plan.on(twin)
    assert (moved.sheets, moved.hash, moved.serving) == (plan.sheets, plan.hash, plan.serving)
    for phase in PHASES:
        for features in plan.sheets:
            here, there = plan.ops(phase, features), moved.ops(phase, features)
            assert (here.arena, there.arena) == (two.arena, twin.arena)
            assert all(getattr(here, op).__func__ is getattr(there, op).__func__ for op in OPS)


def test_unknown_features_are_errors_that_name_the_known_ones(two: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"unknown feature lora.*known are bias, encoder, layer_norm, moe, qk_norm"):
        resolve(two, FLOAT, dynamic=frozenset({"lora"}))
    monkeypatch.setattr(choice, "check_features", lambda features: None)
    with pytest.raises(ConfigError, match=r"7 features of requests.*at most 6"):
        resolve(two, FLOAT, dynamic=frozenset("abcdefg"))


# -- saved, locked, required ---------------------------------------------------------------------------------------


def save(plan: Plan, path: Path, **more: Any) -> Path:
    path.write_text(json.dumps({"schema": 1, "plan": plan.as_json(), "hash": plan.hash, **more}))
    return path


def test_a_saved_plan_locks_itself(two: Device, tmp_path: Path) -> None:
    plan = resolve(two, FLOAT)
    locked = read_plan(save(plan, tmp_path / "plan.json"))
    check_lock(plan, locked)
    assert plan_hash(locked.rows) == plan.hash
    assert differences(locked.rows, plan.rows) == []


def test_a_lost_override_breaks_the_lock_with_its_reason(two: Device, tmp_path: Path) -> None:
    locked = read_plan(save(resolve(two, FLOAT), tmp_path / "plan.json"))
    later = resolve(two, FLOAT, disabled=frozenset({"acme.fast", "acme.linear"}))
    with pytest.raises(PlanError) as caught:
        check_lock(later, locked)
    text = str(caught.value)
    assert "linear, ffn_layer changed" in caught.value.what
    assert "impl acme.fast -> acme.slow (acme.fast: disabled by --disable-impl)" in text
    assert "source override -> default" in text
    assert "gemm" not in text


def test_a_reason_in_other_words_is_no_difference(tmp_path: Path) -> None:
    plans = [
        resolve(device_with(("ffn_layer", "acme.ffn", {"when": lambda s, r=reason: No(r)})), FLOAT)
        for reason in ("it is late", "it is early")
    ]
    assert plans[0].hash == plans[1].hash
    check_lock(plans[0], read_plan(save(plans[1], tmp_path / "plan.json")))


def test_differences_are_added_removed_and_changed_rows_and_phases_that_change_alike_are_one(two: Device) -> None:
    rows = resolve(two, FLOAT).rows
    other = resolve(two, FLOAT, disabled=frozenset({"acme.linear"})).rows
    only_decode = tuple(replace(r, phase="decode") if r.op == "concat" else r for r in rows)
    assert differences(rows, tuple(r for r in rows if r.op != "gemm")) == [Change("gemm", "any", "removed")]
    assert differences(tuple(r for r in rows if r.op != "gemm"), rows) == [Change("gemm", "any", "added")]
    assert differences(rows, only_decode) == [Change("concat", "prefill", "removed")]
    (changed,) = differences(rows, other)
    assert (changed.op, changed.phase, changed.kind) == ("linear", "any", "changed")
    assert dict((n, (a, b)) for n, a, b in changed.fields) == {
        "impl": ("acme.linear", "default.linear"),
        "source": ("override", "default"),
    }


def test_a_plan_for_features_locks_the_sheet_of_those(two: Device, tmp_path: Path) -> None:
    plan = resolve(two, FLOAT, dynamic=frozenset({"bias"}))
    sheet = plan.sheets[frozenset({"bias"})]
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"plan": as_json(sheet), "hash": plan_hash(sheet), "features": ["bias"]}))
    check_lock(plan, read_plan(path))
    with pytest.raises(PlanError, match="for requests with bias"):
        check_lock(resolve(two, FLOAT), read_plan(path))


def test_a_lock_whose_hash_was_edited_does_not_hold(two: Device, tmp_path: Path) -> None:
    plan = resolve(two, FLOAT)
    with pytest.raises(PlanError, match=r"does not match itself.*0000.*rtp devices explain --json"):
        check_lock(plan, read_plan(save(plan, tmp_path / "plan.json", hash="0000")))


GOOD = {"op": "add", "phase": "any", "dtype": "a", "scheme": "b", "impl": "c", "source": "default", "features": []}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "a list named plan"),
        ('{"plan": 1}', "a list named plan"),
        ('{"plan": [], "schema": 2}', "expected schema 1, got 2"),
        ('{"plan": [1]}', "row 0: expected an object with strings op, phase"),
        (json.dumps({"plan": [GOOD, {**GOOD, "impl": None}]}), "row 1: expected an object"),
        (json.dumps({"plan": [{**GOOD, "phase": "late"}]}), "row 0: phase 'late'"),
        (json.dumps({"plan": [{**GOOD, "source": "luck"}]}), "source 'luck'"),
        (json.dumps({"plan": [{**GOOD, "features": "bias"}]}), "row 0: expected lists"),
        (json.dumps({"plan": [GOOD], "features": [1]}), "features: expected a list of strings"),
        (json.dumps({"plan": [GOOD] * 20_000}), "more than 16384 rows"),
    ],
)
def test_files_that_are_no_plans_are_named_with_how_to_write_one(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said) as caught:
        read_plan(path)
    assert str(path) in str(caught.value)
    assert caught.value.hint == "rtp devices explain --json > plan.json"


def test_a_missing_file_is_an_error_with_how_to_write_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the plan.*rtp devices explain --json > plan\.json"):
        read_plan(tmp_path / "plan.json")


def test_a_plan_of_a_later_core_can_be_read_and_compared(two: Device, tmp_path: Path) -> None:
    rows = resolve(two, FLOAT).rows
    later = [*as_json(rows), {**GOOD, "op": "tree_layer", "news": 1}]
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"plan": later}))
    assert differences(rows, read_plan(path).rows) == [Change("tree_layer", "any", "added")]


def test_required_ops_are_served_by_overrides_or_the_error_says_why_not(two: Device) -> None:
    demand = replace(FLOAT, features={"linear": frozenset({"bias"})})
    plan = resolve(two, demand)
    check_required(plan, ["ffn_layer", "gemm"])
    with pytest.raises(PlanError) as caught:
        check_required(plan, ["ffn_layer", "linear", "lm_head"])
    assert caught.value.what == "no override serves linear, lm_head"
    assert caught.value.why == "linear: acme.linear: does not handle bias; lm_head: the device has no override of it"
    with pytest.raises(ConfigError, match=r"no op 'fnn_layer' to require.*ops are"):
        check_required(plan, ["fnn_layer"])


def test_an_op_required_must_be_served_in_both_phases() -> None:
    device = device_with(("ffn_layer", "a.b", {"when": lambda s: YES if s.phase == "decode" else No("too many rows")}))
    with pytest.raises(PlanError, match=r"ffn_layer \(prefill\): a\.b: too many rows"):
        check_required(resolve(device, FLOAT), ["ffn_layer"])


def test_the_benchmark_of_all_this_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    import plan_overhead

    monkeypatch.setattr(plan_overhead, "CALLS", 3)
    monkeypatch.setattr(plan_overhead, "ROUNDS", 2)
    found = plan_overhead.call_ratio()
    assert set(found) == {"planned_ns", "direct_ns", "ratio"}
    assert all(value > 0 for value in found.values())


def test_composite_declares_a_tagged_option_as_a_feature() -> None:
    @composite(3, options={"extra": NEW})
    def op(self: Any, x: Any, *, extra: Any = None) -> Any:
        return x

    assert op.__rtp_op__.features == {NEW}  # type: ignore[attr-defined]
