"""What a class may declare, what may be created, and how the plan chooses and explains."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rtp_core.device.device import MIN_BUDGET
from rtp_core.device.layers import Layers
from rtp_core.device.op import composite
from rtp_core.device.plan import Demand, Plan, PlanRow, resolve
from rtp_core.device.reference import ReferenceDevice
from rtp_core.errors import ConfigError, ContractError
from rtp_core.plugin import (
    OPS,
    PRIMITIVES,
    YES,
    Buffer,
    Device,
    DeviceConfig,
    DeviceInfo,
    FfnWeights,
    Linear,
    No,
    dtypes,
    overrides,
)
from rtp_test_devices.handle import HandleDevice

# -- the ladder itself ---------------------------------------------------------------------------------------------


def test_primitives_are_the_fifteen_of_api_1() -> None:
    assert set(PRIMITIVES) == {
        *("activation", "add", "cast", "dequantize", "gather_rows", "gemm", "kv_gather", "kv_write"),
        *("layer_norm", "mul", "quantize", "rms_norm", "rope", "softmax", "top_k"),
    }


def test_primitives_have_no_tagged_options_and_composites_have_a_body() -> None:
    for name, spec in OPS.items():
        if spec.is_primitive:
            assert not spec.options, name
            assert getattr(Device, name).__isabstractmethod__, name
        else:
            assert not getattr(getattr(Device, name), "__isabstractmethod__", False), name


def test_options_of_ops_are_keyword_only_and_out_comes_last() -> None:
    for name, spec in OPS.items():
        parameters = list(spec.signature.parameters.values())
        assert all(p.kind is p.KEYWORD_ONLY for p in parameters if p.name in spec.options), name
        if "out" in spec.parameters:
            assert spec.parameters[-1] == "out", name
            assert parameters[-1].kind is inspect.Parameter.KEYWORD_ONLY, name


# -- class definition ----------------------------------------------------------------------------------------------


def define(body: dict[str, Any], *bases: type) -> type[Device]:
    return type("AcmeDevice", bases or (ReferenceDevice,), body)


def ffn(self: Any, x: Buffer, weights: FfnWeights, *, out: Buffer | None = None) -> Buffer:
    return x


def linear(self: Any, x: Buffer, weight: Linear, *, out: Buffer | None = None) -> Buffer:
    return x


def lacking(self: Any, x: Buffer, weights: FfnWeights) -> Buffer:
    return x


def misnamed(self: Any, a: Buffer, b: Buffer, *, result: Buffer | None = None) -> Buffer:
    return a


def concat(self: Any, parts: Any, *, axis: int = 0, out: Buffer | None = None) -> Buffer:
    return parts[0]


def rows_last(self: Any, parts: Any, *, axis: int = -1, out: Buffer | None = None) -> Buffer:
    return parts[0]


def positional(self: Any, x: Buffer, weight: Buffer, eps: float, /, *, out: Buffer | None = None) -> Buffer:
    return x


def transposed(self: Any, a: Any, b: Any, *, bias: Any = None, trans_b: bool = True, out: Any = None) -> Any:
    return a


def undecided(self: Any, a: Any, b: Any, *, bias: Any = None, trans_b: bool, out: Any = None) -> Any:
    return a


def anything(self: Any) -> None:
    return None


def marked(op: str, function: Any, impl: str = "acme.fast", **options: Any) -> Any:
    """A copy of the function, so that one function can be marked twice."""
    copy = type(function)(function.__code__, function.__globals__, function.__name__, function.__defaults__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return overrides(op, impl=impl, **options)(copy)


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ({"_f": marked("fnn_layer", ffn)}, "overrides unknown op 'fnn_layer'.*perhaps 'ffn_layer'"),
        ({"_f": marked("ffn_layer", lacking)}, "expected parameters .*'out'.* of ffn_layer, got"),
        ({"_f": marked("ffn_layer", linear)}, "expected parameters .*'weights'"),
        ({"add": misnamed}, "add: expected parameters .*'out'.*got.*'result'"),
        ({"ffn_layer": ffn}, "ffn_layer redefines a composite: use @overrides"),
        ({"_f": marked("add", misnamed)}, "add is a primitive: define it as a plain method"),
        ({"warm_up": anything}, "warm_up: core never calls this public name"),
        ({"SPEED": 3}, "SPEED: core never calls this public name"),
        ({"f": marked("ffn_layer", ffn)}, "f: an override's own name starts with an underscore"),
        (
            {"_f": marked("ffn_layer", ffn, "acme.one"), "_g": marked("ffn_layer", ffn, "acme.two")},
            "override ffn_layer with equal priority 100",
        ),
        (
            {"_f": marked("ffn_layer", ffn), "_g": marked("linear", linear)},
            r"_g and _f are both called acme\.fast: expected a name for each",
        ),
        ({"_f": marked("ffn_layer", ffn, "")}, "expected an impl name like 'acme.ffn_layer', got ''"),
        ({"_f": marked("ffn_layer", ffn, "default.ffn_layer")}, "expected an impl name.*got 'default.ffn_layer'"),
        ({"_f": marked("ffn_layer", ffn, "a,b")}, "expected an impl name.*got 'a,b'"),
        ({"_f": marked("ffn_layer", ffn, priority=True)}, "expected a whole number as priority, got True"),
        ({"_f": marked("ffn_layer", ffn, when=True)}, "expected when= to be a function of a Signature, got True"),
        ({"_f": marked("ffn_layer", ffn, when=lambda: YES)}, r"expected when= to take a Signature.*got \(\)"),
        (
            {"_f": marked("ffn_layer", ffn, handles={"bais"})},
            "handles unknown features bais; ffn_layer has bias",
        ),
        ({"_f": marked("concat", concat, handles={"bias"})}, "unknown features bias; concat has no features"),
        ({"_f": marked("concat", rows_last)}, r"_f: expected axis with default 0, got -1"),
        ({"rms_norm": positional}, "rms_norm: expected eps to be keyword-only, got positional-only"),
        ({"gemm": transposed}, "gemm: expected trans_b with default False, got True"),
        ({"gemm": undecided}, "gemm: expected trans_b with default False, got none"),
        ({"gemm": 3}, "gemm: expected a method, got 3"),
        ({"copy": lacking}, "copy: expected parameters .*'dst', 'src'.*got"),
        ({"manifest": {"kind": "acme"}}, "manifest: expected a Manifest, got {'kind': 'acme'}"),
        ({"manifest": ReferenceDevice.manifest, "kind": "acme"}, "kind: expected 'ref'.*got 'acme'"),
        ({"kind": "acme"}, "kind: expected 'ref'.*got 'acme'"),
    ],
)
def test_class_definition_rejects_a_broken_contract(body: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ContractError, match=complaint) as caught:
        define(body)
    assert "AcmeDevice breaks the device contract" in str(caught.value)


def test_all_problems_of_a_class_are_told_at_once() -> None:
    with pytest.raises(ContractError, match=r"(?s)warm_up.*ffn_layer|ffn_layer.*warm_up"):
        define({"warm_up": anything, "ffn_layer": ffn})


def test_a_mixin_is_held_to_the_contract_of_the_class_that_takes_it_in() -> None:
    mixin = type("Kernels", (), {"warm_up": anything})
    with pytest.raises(ContractError, match="warm_up: core never calls"):
        define({}, mixin, ReferenceDevice)


def test_overrides_of_mixins_and_of_every_base_are_found() -> None:
    mixin = type("Kernels", (), {"_linear": marked("linear", linear, "acme.linear")})
    parent = define({"_ffn": marked("ffn_layer", ffn, "acme.ffn")})
    child = define({"_ffn2": marked("ffn_layer", ffn, "acme.ffn2", priority=200)}, mixin, parent)
    assert [o.impl for o in child.overrides] == ["acme.ffn2", "acme.ffn", "acme.linear"]
    assert [o.impl for o in parent.overrides] == ["acme.ffn"]


def test_equal_priority_with_a_base_is_rejected_and_redefining_its_method_is_not() -> None:
    parent = define({"_ffn": marked("ffn_layer", ffn, "acme.old")})
    with pytest.raises(ContractError, match="equal priority"):
        define({"_other": marked("ffn_layer", ffn, "acme.new")}, parent)
    child = define({"_ffn": marked("ffn_layer", ffn, "acme.new")}, parent)
    assert [o.impl for o in child.overrides] == ["acme.new"]


def test_one_method_under_two_names_is_one_override() -> None:
    override = marked("ffn_layer", ffn)
    assert [o.impl for o in define({"_f": override, "_g": override}).overrides] == ["acme.fast"]


def test_parameters_that_core_calls_by_name_may_be_positional_too() -> None:
    def gemm(self: Any, a: Any, b: Any, bias: Any = None, trans_b: bool = False, out: Any = None) -> Any:
        return a

    assert issubclass(define({"gemm": gemm}), Device)


def test_private_names_are_the_vendors_own() -> None:
    assert issubclass(define({"_warm_up": anything, "__len__": anything}), Device)


# -- creation ------------------------------------------------------------------------------------------------------


def create(cls: type[Device], memory_budget: int | None = 1 << 20) -> Device:
    return cls(DeviceInfo(f"{cls.kind}:0", "test", 1 << 30, 1 << 30), DeviceConfig(memory_budget=memory_budget))


def test_creation_names_every_missing_primitive() -> None:
    body = {name: getattr(ReferenceDevice, name) for name in PRIMITIVES if name not in ("rope", "top_k")}
    partial = define({"manifest": ReferenceDevice.manifest, **body}, Device)
    with pytest.raises(ContractError, match="missing primitives: rope, top_k"):
        create(partial)


def test_creation_asks_for_a_manifest_which_also_names_the_kind() -> None:
    with pytest.raises(ContractError, match="expected a class attribute manifest"):
        create(define({"kind": "acme"}, Device))
    assert HandleDevice.kind == HandleDevice.manifest.kind == "handle"


@pytest.mark.parametrize("budget", [0, MIN_BUDGET - 1, (8 << 30) + 1])
def test_budgets_that_no_device_has_are_rejected_before_memory_is_reserved(budget: int) -> None:
    with pytest.raises(ConfigError, match=r"memory budget is .* in handle:0"):
        create(HandleDevice, budget)


def test_budget_defaults_to_half_of_what_is_free() -> None:
    assert create(HandleDevice, None).arena.stats().total_bytes == 4 << 30


# -- the plan ------------------------------------------------------------------------------------------------------


def row(plan: Plan, op: str) -> PlanRow:
    (found,) = [r for r in plan.rows if r.op == op and r.phase in ("any", "prefill")]
    return found


def rejected(plan: Plan, op: str) -> dict[str, str]:
    return {r.impl: r.reason for r in row(plan, op).rejected}


def only_f32(s: Any) -> Any:
    return YES if s.dtype == "float32" else No(f"dtype {s.dtype}")


def test_every_op_has_a_row_with_its_source(handle_device: Device) -> None:
    plan = resolve(handle_device, Demand("float32"))
    assert {r.op for r in plan.rows} == set(OPS)
    assert all(r.phase == "any" for r in plan.rows)
    assert (row(plan, "gemm").impl, row(plan, "gemm").source) == ("handle.gemm", "primitive")
    assert (row(plan, "linear").impl, row(plan, "linear").source) == ("default.linear", "default")
    assert row(plan, "gated_activation").impl == "handle.gated_activation"
    assert row(plan, "gated_activation").source == "override"


def test_a_predicates_no_is_the_reason_in_the_plan(handle_device: Device) -> None:
    plan = resolve(handle_device, Demand("bfloat16"))
    assert row(plan, "gated_activation").source == "default"
    assert rejected(plan, "gated_activation") == {"handle.gated_activation": "dtype bfloat16"}


def test_higher_priority_wins_and_the_other_says_so() -> None:
    cls = define(
        {
            "_slow": marked("ffn_layer", ffn, "acme.slow", priority=1),
            "_fast": marked("ffn_layer", ffn, "acme.fast", priority=2, when=only_f32),
        }
    )
    device = create(cls)
    plan = resolve(device, Demand("float32"))
    assert row(plan, "ffn_layer").impl == "acme.fast"
    assert rejected(plan, "ffn_layer") == {"acme.slow": "priority 1 is below acme.fast"}
    plan = resolve(device, Demand("float16"))
    assert row(plan, "ffn_layer").impl == "acme.slow"
    assert rejected(plan, "ffn_layer") == {"acme.fast": "dtype float16"}


def test_an_override_of_one_phase_gives_two_rows() -> None:
    cls = define(
        {"_f": marked("ffn_layer", ffn, when=lambda s: YES if s.phase == "decode" else No("only in decode"))},
    )
    plan = resolve(create(cls), Demand("float32"))
    rows = {r.phase: r.impl for r in plan.rows if r.op == "ffn_layer"}
    assert rows == {"prefill": "default.ffn_layer", "decode": "acme.fast"}
    assert plan.ops("decode").ffn_layer.__func__ is cls.overrides[0].function
    assert plan.ops("prefill").ffn_layer.__func__ is Device.ffn_layer


def test_an_override_must_accept_every_scheme_its_op_meets() -> None:
    cls = define(
        {"_f": marked("linear", linear, when=lambda s: YES if s.scheme == "q4_0" else No(f"scheme {s.scheme}"))},
    )
    device = create(cls)
    assert row(resolve(device, Demand("float32", schemes={"linear": ("q4_0",)})), "linear").source == "override"
    plan = resolve(device, Demand("float32", schemes={"linear": ("q4_0", "q8_0")}))
    assert rejected(plan, "linear") == {"acme.fast": "scheme q8_0"}
    assert row(plan, "linear").scheme == "q4_0+q8_0"


def test_features_of_the_model_turn_away_overrides_that_do_not_handle_them() -> None:
    device = create(define({"_f": marked("linear", linear)}))
    plan = resolve(device, Demand("float32", features={"linear": frozenset({"bias", "another op's"})}))
    assert rejected(plan, "linear") == {"acme.fast": "does not handle bias"}
    assert row(plan, "linear").features == ("bias",)


@pytest.mark.parametrize("answer", [True, False, None, "no", No])
def test_a_predicate_that_answers_anything_but_yes_or_no_with_a_reason_raises(answer: Any) -> None:
    device = create(define({"_f": marked("linear", linear, when=lambda s: answer)}))
    with pytest.raises(ContractError, match=r"the predicate of acme\.fast answered"):
        resolve(device, Demand("float32"))


def test_disabling_an_override_falls_to_the_next_and_the_plan_says_why(handle_device: Device) -> None:
    plan = resolve(handle_device, Demand("float32"), disabled=frozenset({"handle.gated_activation"}))
    assert row(plan, "gated_activation").impl == "default.gated_activation"
    assert rejected(plan, "gated_activation") == {"handle.gated_activation": "disabled by --disable-impl"}


def test_disabling_an_unknown_name_is_an_error_that_lists_the_known_ones(handle_device: Device) -> None:
    with pytest.raises(ConfigError, match=r"handle\.gated_aktivation.*it has handle\.gated_activation"):
        resolve(handle_device, Demand("float32"), disabled=frozenset({"handle.gated_aktivation"}))


def test_equal_plans_have_equal_hashes_and_another_choice_has_another(make_device: Any) -> None:
    demand = Demand("float32", {"hidden_size": 64})
    first, second = (resolve(make_device(HandleDevice), demand) for _ in range(2))
    assert first.hash == second.hash
    assert first.as_json() == second.as_json()
    assert len(first.hash) == 16
    other = resolve(make_device(HandleDevice), demand, disabled=frozenset({"handle.gated_activation"}))
    assert other.hash != first.hash
    assert resolve(make_device(HandleDevice), Demand("float16")).hash != first.hash


def test_bound_ops_are_plain_methods_that_share_the_device(handle_device: Device) -> None:
    ops = resolve(handle_device, Demand("float32")).ops("decode")
    assert isinstance(ops, HandleDevice)
    assert ops.arena is handle_device.arena
    assert inspect.ismethod(ops.gated_activation)
    assert inspect.ismethod(ops.gemm)
    assert handle_device.gated_activation.__func__ is Device.gated_activation


# -- a new option of a composite -----------------------------------------------------------------------------------

LIMIT = "ffn_limit"  # a feature that no released core has


def limited_ffn(
    self: Any, x: Buffer, weights: FfnWeights, *, limit: float | None = None, out: Buffer | None = None
) -> Buffer:
    """The default of ffn_layer in a later core: its result is scaled by a limit."""
    y = self.linear(self._up(x, weights), weights.down, out=out)
    if limit is None:
        return y
    factor = self.upload(np.full(y.shape[1], limit, np.float32), "limit")
    return self.mul(y, factor, out=y)


@pytest.fixture
def later_core(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A core whose ffn_layer has gained one tagged option. Classes defined before it are the published plugins."""
    limited_ffn.__name__ = "ffn_layer"
    default = composite(3, options={"limit": LIMIT}, features=frozenset({"bias"}), since=(1, 1))(limited_ffn)
    monkeypatch.setattr(Layers, "ffn_layer", default)
    monkeypatch.setitem(OPS, "ffn_layer", replace(default.__rtp_op__))  # type: ignore[attr-defined]
    yield


class PublishedDevice(ReferenceDevice):
    """Written before the option was thought of."""

    @overrides("ffn_layer", impl="published.ffn", handles={"bias"})
    def _ffn(self, x: Buffer, weights: FfnWeights, *, out: Buffer | None = None) -> Buffer:
        return self.linear(self._up(x, weights), weights.down, out=out)

    @overrides("gated_activation", impl="published.gated")
    def _gated(self, x: Buffer, *, kind: str, out: Buffer | None = None) -> Buffer:
        half = x.shape[1] // 2
        gate = self.activation(x[:, :half], kind=kind)
        return self.mul(gate, x[:, half:], out=out)


def silu_ffn(x: NDArray[np.float32], up: NDArray[np.float32], down: NDArray[np.float32]) -> NDArray[np.float64]:
    gate, linear = np.split(x.astype(np.float64) @ up.T, 2, axis=1)
    result: NDArray[np.float64] = (gate / (1 + np.exp(-gate)) * linear) @ down.T
    return result


def run_ffn(device: Device, demand: Demand, **options: float) -> tuple[Plan, NDArray[np.float64]]:
    """The plan, and what its ffn_layer makes of some numbers, as a multiple of the plain ffn."""
    rng = np.random.default_rng(7)
    x, up, down = (rng.standard_normal(shape).astype(np.float32) for shape in ((4, 8), (24, 8), (8, 12)))
    plan = resolve(device, demand)
    weights = FfnWeights((Linear(device.upload(up, "w")),), Linear(device.upload(down, "w")), "silu")
    y = plan.ops("prefill").ffn_layer(device.upload(x, "x"), weights, **options)
    return plan, device.download(y) / silu_ffn(x, up, down)


@pytest.mark.usefixtures("later_core")
def test_without_the_new_feature_published_overrides_serve_as_before(make_device: Any) -> None:
    plan, ratio = run_ffn(make_device(PublishedDevice), Demand("float32"))
    assert row(plan, "ffn_layer").impl == "published.ffn"
    np.testing.assert_allclose(ratio, 1, rtol=1e-3)


@pytest.mark.usefixtures("later_core")
@pytest.mark.parametrize("cls", [ReferenceDevice, HandleDevice, PublishedDevice], ids=lambda cls: cls.__name__)
def test_a_new_option_is_right_on_devices_that_have_never_heard_of_it(make_device: Any, cls: type[Device]) -> None:
    demand = Demand("float32", features={"ffn_layer": frozenset({LIMIT})})
    plan, ratio = run_ffn(make_device(cls), demand, limit=0.5)
    assert row(plan, "ffn_layer").impl == "default.ffn_layer"
    np.testing.assert_allclose(ratio, 0.5, rtol=1e-3)
    if cls is PublishedDevice:
        assert rejected(plan, "ffn_layer") == {"published.ffn": f"does not handle {LIMIT}"}
        assert row(plan, "gated_activation").impl == "published.gated"  # other overrides stay


@pytest.mark.usefixtures("later_core")
def test_a_device_that_opts_in_serves_the_new_option_itself(make_device: Any) -> None:
    class OptedIn(PublishedDevice):
        @overrides("ffn_layer", impl="opted.ffn", priority=200, handles={"bias", LIMIT})
        def _limited(
            self, x: Buffer, weights: FfnWeights, *, limit: float | None = None, out: Buffer | None = None
        ) -> Buffer:
            y = self._ffn(x, weights, out=out)
            y.numpy()[...] *= 1 if limit is None else limit
            return y

    demand = Demand("float32", features={"ffn_layer": frozenset({LIMIT})})
    plan, ratio = run_ffn(make_device(OptedIn), demand, limit=0.25)
    assert row(plan, "ffn_layer").impl == "opted.ffn"
    assert rejected(plan, "ffn_layer") == {"published.ffn": "priority 100 is below opted.ffn"}
    np.testing.assert_allclose(ratio, 0.25, rtol=1e-3)


@pytest.mark.usefixtures("later_core")
def test_an_override_that_claims_a_feature_must_take_its_option() -> None:
    with pytest.raises(ContractError, match=r"expected parameters .*'limit'"):
        define({"_f": marked("ffn_layer", ffn, handles={LIMIT})})


@pytest.mark.usefixtures("later_core")
def test_an_option_may_be_taken_without_being_handled_but_not_under_another_name() -> None:
    def lomit(self: Any, x: Buffer, weights: FfnWeights, *, lomit: Any = None, out: Buffer | None = None) -> Buffer:
        return x

    assert issubclass(define({"_f": marked("ffn_layer", limited_ffn)}), Device)
    with pytest.raises(ContractError, match=r"expected parameters .*'limit', 'out'.*got .*'lomit'"):
        define({"_f": marked("ffn_layer", lomit, handles={LIMIT})})


def test_dtype_of_logits_stays_float32_through_every_plan(device: Device) -> None:
    x = device.cast(device.upload(np.ones((2, 4), np.float32), "x"), dtypes.bfloat16)
    weight = device.cast(device.upload(np.ones((3, 4), np.float32), "w"), dtypes.bfloat16)
    logits = resolve(device, Demand("bfloat16")).ops("decode").lm_head(x, Linear(weight))
    assert logits.dtype is dtypes.float32
    assert device.download(logits).tolist() == [[4.0] * 3] * 2
