"""`rtp devices explain`, and what --plan-lock, --require and --prefer do with the plan."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from rtp_core.checkpoint import hub
from rtp_core.device.device import OPS

from .conftest import RunRtp
from .scripted_model import document, on_ref

ROW = {"op", "level", "phase", "dtype", "scheme", "features", "impl", "source", "rejected"}


@pytest.fixture
def on_handle(model: Path) -> list[str]:
    """A device that has an override, whose predicate takes float32 alone."""
    return ["--model", str(model), "--device", "handle"]


@pytest.fixture
def absent_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed plugin of kind `acme` whose hardware is not there."""
    (tmp_path / "rtp_acme_absent.py").write_text(
        "from rtp_core.plugin import DeclaredOverride, Manifest, No, hookimpl\n"
        "MANIFEST = Manifest(kind='acme', vendor='acme', api=(1, 0), device_class='accelerator',\n"
        "    dtypes=('bfloat16', 'float32'), schemes=('q8_0',), overrides=(\n"
        "        DeclaredOverride('ffn_layer', 'acme.ffn', 200, is_conditional=True),\n"
        "        DeclaredOverride('ffn_layer', 'acme.slow_ffn'),\n"
        "        DeclaredOverride('gated_activation', 'acme.gated'),\n"
        "        DeclaredOverride('linear', 'acme.linear', handles={'bias'})))\n"
        "@hookimpl\ndef rtp_device_manifest(): return MANIFEST\n"
        "@hookimpl\ndef rtp_device_probe(): return No('no acme card on this machine')\n"
        "@hookimpl\ndef rtp_device_create(info, config): raise AssertionError('nobody may open it')\n"
    )
    info = tmp_path / "rtp_acme-0.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rtp-acme\nVersion: 0.3\n")
    (info / "entry_points.txt").write_text("[rtp.devices]\nacme = rtp_acme_absent\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # for the process that probes


def rows(result: Result) -> dict[str, dict[str, Any]]:
    return {row["op"]: row for row in document(result)["plan"]}


def saved(result: Result, path: Path) -> Path:
    assert result.exit_code == 0, result.stderr
    path.write_text(result.stdout)
    return path


def test_json_has_a_row_for_every_op_and_the_hash(rtp: RunRtp, on_handle: list[str]) -> None:
    found = document(rtp("devices", "explain", *on_handle, "--json"))
    assert {row["op"] for row in found["plan"]} == set(OPS)
    for row in found["plan"]:
        assert set(row) >= ROW
        assert row["phase"] in ("prefill", "decode", "any")
        assert row["source"] in ("primitive", "default", "override", "borrowed")
        assert row["level"] == OPS[row["op"]].level
        assert all(set(r) == {"impl", "reason"} and r["reason"] for r in row["rejected"])
    assert len(found["hash"]) == 16
    assert (found["device"], found["dtype"], found["features"]) == ("handle:0", "float32", [])


def test_the_hash_is_the_one_that_a_run_reports(rtp: RunRtp, model: Path) -> None:
    options = ["--model", model, "--device", "ref", "--dtype", "float32"]
    told = document(rtp("devices", "explain", *options, "--json"))["hash"]
    run = rtp("generate", "a", *on_ref(model), "--json")
    assert document(run)["plan_hash"] == told
    sizes = ["--prompt-tokens", 2, "--output-tokens", 2]
    assert document(rtp("bench", "latency", *on_ref(model), *sizes, "--json"))["plan_hash"] == told


def test_without_a_model_it_is_the_default_one(rtp: RunRtp, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "resolve", lambda name, progress: model if name == hub.DEFAULT_MODEL else None)
    assert document(rtp("devices", "explain", "--device", "ref", "--json"))["model"] == hub.DEFAULT_MODEL


def test_a_dtype_and_what_is_disabled_or_preferred_change_the_plan_and_say_why(
    rtp: RunRtp, on_handle: list[str]
) -> None:
    command = ["devices", "explain", *on_handle, "--json"]
    assert rows(rtp(*command))["gated_activation"]["impl"] == "handle.gated_activation"
    for more, reason in (
        (["--dtype", "bfloat16"], "dtype bfloat16"),
        (["--disable-impl", "handle.gated_activation"], "disabled by --disable-impl"),
        (
            ["--prefer", "gated_activation=default.gated_activation"],
            "default.gated_activation is preferred (--prefer)",
        ),
    ):
        row = rows(rtp(*command, *more))["gated_activation"]
        assert (row["impl"], row["source"]) == ("default.gated_activation", "default")
        assert row["rejected"] == [{"impl": "handle.gated_activation", "reason": reason}]


def test_features_of_requests_route_around_what_does_not_handle_them(rtp: RunRtp, on_handle: list[str]) -> None:
    found = document(rtp("devices", "explain", *on_handle, "--features", "bias, moe", "--json"))
    by_op = {row["op"]: row for row in found["plan"]}
    assert found["features"] == ["bias", "moe"]
    assert by_op["linear"]["features"] == ["bias"]
    assert by_op["decoder_layer"]["features"] == ["bias", "moe"]
    unknown = rtp("devices", "explain", *on_handle, "--features", "lora")
    assert unknown.exit_code == 2
    assert "unknown feature lora" in unknown.stderr
    assert "known are bias, encoder, layer_norm, moe, qk_norm" in unknown.stderr


def test_the_tree_has_every_level_and_every_rejected_candidate(rtp: RunRtp, on_handle: list[str]) -> None:
    result = rtp("devices", "explain", *on_handle, "--dtype", "bfloat16")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line.strip("├└─ ") for line in lines if "level" in line or "primitives" in line] == [
        *(f"level {n}" for n in (5, 4, 3, 2, 1)),
        "primitives",
    ]
    (at,) = [i for i, line in enumerate(lines) if " gated_activation  " in line]
    assert "default.gated_activation  default" in lines[at]
    assert "not handle.gated_activation: dtype bfloat16" in lines[at + 1]
    assert "\x1b" not in result.stdout


def test_absent_hardware_is_explained_from_the_manifest_alone(rtp: RunRtp, model: Path, absent_plugin: None) -> None:
    result = rtp("devices", "explain", "--model", model, "--device", "acme", "--json")
    assert result.exit_code == 0, result.stderr
    found = document(result)
    by_op = {row["op"]: row for row in found["plan"]}
    ffn = by_op["ffn_layer"]
    assert (ffn["impl"], ffn["conditional"]) == ("acme.ffn", True)
    assert ffn["rejected"] == [
        {"impl": "acme.slow_ffn", "reason": "priority 100 is below acme.ffn, if that one's predicate agrees"}
    ]
    assert (by_op["linear"]["impl"], by_op["linear"]["conditional"]) == ("acme.linear", False)
    assert by_op["gated_activation"]["shadowed_by"] == ["acme.ffn"]
    assert (by_op["gemm"]["impl"], by_op["gemm"]["source"]) == ("acme.gemm", "primitive")
    assert (found["device"], found["assumed"]) == ("acme", "no acme card on this machine")
    assert "from its manifest alone" in result.stderr
    tree = rtp("devices", "explain", "--model", model, "--device", "acme").stdout
    assert "ffn_layer  acme.ffn  override, if its predicate agrees" in tree
    assert "unused inside acme.ffn" in tree
    run = rtp("generate", "a", "--model", model, "--device", "acme")
    assert run.exit_code == 4
    assert "no acme card on this machine" in run.stderr


def test_a_manifest_can_be_asked_where_the_hardware_is_there(rtp: RunRtp, on_handle: list[str], model: Path) -> None:
    command = ["devices", "explain", *on_handle, "--dtype", "bfloat16", "--json"]
    assert rows(rtp(*command))["gated_activation"]["source"] == "default"
    row = rows(rtp(*command, "--assume-manifest"))["gated_activation"]
    assert (row["impl"], row["conditional"]) == ("handle.gated_activation", True)
    automatic = rtp("devices", "explain", "--model", model, "--assume-manifest")
    assert automatic.exit_code == 4
    assert "--device KIND" in automatic.stderr


def test_devices_and_models_that_cannot_be_used_have_their_own_exit_codes(
    rtp: RunRtp, model: Path, tmp_path: Path, broken_plugin: str
) -> None:
    broken = rtp("devices", "explain", "--model", model, "--device", "acme")
    assert broken.exit_code == 4
    assert broken_plugin in broken.stderr
    assert rtp("devices", "explain", "--model", tmp_path / "nothing", "--device", "ref").exit_code == 3
    assert rtp("devices", "explain", "--model", model, "--device", "ref", "--dtype", "int3").exit_code == 2


# -- differences ---------------------------------------------------------------------------------------------------


def test_diff_compares_two_files_or_one_with_now(rtp: RunRtp, on_handle: list[str], tmp_path: Path) -> None:
    explain = ["devices", "explain", *on_handle]
    old = saved(rtp(*explain, "--json"), tmp_path / "old.json")
    new = saved(rtp(*explain, "--disable-impl", "handle.gated_activation", "--json"), tmp_path / "new.json")
    same = rtp(*explain, "--diff", old)
    assert (same.exit_code, same.stdout) == (0, "the plans are equal\n")
    assert document(rtp(*explain, "--diff", old, "--json")) == {
        "schema": 1,
        "equal": True,
        "added": [],
        "removed": [],
        "changed": [],
    }
    differing = rtp("devices", "explain", "--diff", old, new, "--json")
    assert differing.exit_code == 1
    (change,) = document(differing)["changed"]
    assert change == {
        "op": "gated_activation",
        "phase": "any",
        "impl": {"old": "handle.gated_activation", "new": "default.gated_activation"},
        "source": {"old": "override", "new": "default"},
    }
    with_now = rtp(*explain, "--diff", new)
    assert with_now.exit_code == 1
    assert with_now.stdout.startswith("~ gated_activation changed, impl default.gated_activation -> handle.gated")


def test_diff_shows_rows_that_came_and_went(rtp: RunRtp, on_handle: list[str], tmp_path: Path) -> None:
    old = saved(rtp("devices", "explain", *on_handle, "--json"), tmp_path / "old.json")
    plan = json.loads(old.read_text())
    plan["plan"] = [{**row, "op": "tree_layer"} if row["op"] == "concat" else row for row in plan["plan"]]
    new = tmp_path / "new.json"
    new.write_text(json.dumps(plan))
    found = document(rtp("devices", "explain", "--diff", old, new, "--json"))
    assert found["added"] == [{"op": "tree_layer", "phase": "any"}]
    assert found["removed"] == [{"op": "concat", "phase": "any"}]
    assert rtp("devices", "explain", "--diff", old, new).stdout == "- concat removed\n+ tree_layer added\n"


def test_bad_saved_plans_end_with_2(rtp: RunRtp, on_handle: list[str], tmp_path: Path) -> None:
    missing = rtp("devices", "explain", *on_handle, "--diff", tmp_path / "nothing.json")
    assert missing.exit_code == 2
    assert "rtp devices explain --json > plan.json" in missing.stderr
    lonely = rtp("devices", "explain", *on_handle, tmp_path / "new.json")
    assert lonely.exit_code == 2
    assert "--diff" in lonely.stderr


# -- runs that hold a plan -----------------------------------------------------------------------------------------


def test_a_lock_holds_until_the_plan_changes(rtp: RunRtp, model: Path, tmp_path: Path) -> None:
    run = ["generate", "a", "--model", model, "--device", "handle", "--max-model-len", 64]
    explain = rtp("devices", "explain", "--model", model, "--device", "handle", "--json")
    lock = saved(explain, tmp_path / "plan.json")
    assert rtp(*run, "--plan-lock", lock).exit_code == 0
    lost = rtp(*run, "--plan-lock", lock, "--disable-impl", "handle.gated_activation")
    assert lost.exit_code == 1
    assert lost.stdout == ""
    assert "gated_activation changed" in lost.stderr
    assert "disabled by --disable-impl" in lost.stderr
    bench = ["bench", "latency", *run[2:], "--prompt-tokens", 2, "--output-tokens", 2, "--plan-lock", lock]
    assert rtp(*bench).exit_code == 0
    assert rtp(*bench, "--dtype", "bfloat16").exit_code == 1


@pytest.mark.parametrize("text", [None, "{}", "not json"])
def test_a_lock_that_is_no_plan_ends_with_2_before_anything_is_fetched(
    text: str | None, rtp: RunRtp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "resolve", lambda *args: pytest.fail("the model was fetched"))
    lock = tmp_path / "plan.json"
    if text is not None:
        lock.write_text(text)
    result = rtp("generate", "a", "--plan-lock", lock)
    assert result.exit_code == 2
    assert "rtp devices explain --json > plan.json" in result.stderr


def test_required_ops_must_be_overridden(rtp: RunRtp, model: Path) -> None:
    run = ["generate", "a", "--model", model, "--device", "handle", "--max-model-len", 64]
    assert rtp(*run, "--require", "gated_activation").exit_code == 0
    refused = rtp(*run, "--require", "gated_activation, ffn_layer", "--dtype", "bfloat16")
    assert refused.exit_code == 1
    assert "no override serves gated_activation, ffn_layer" in refused.stderr
    assert "handle.gated_activation: dtype bfloat16" in refused.stderr
    unknown = rtp(*run, "--require", "fnn_layer")
    assert unknown.exit_code == 2
    assert "ffn_layer" in unknown.stderr


def test_preferring_what_is_not_there_ends_with_2(rtp: RunRtp, model: Path) -> None:
    run = ["generate", "a", *on_ref(model)]
    for wish, said in (
        ("ffn_layer", "expected op=implementation"),
        ("fnn_layer=acme.ffn", "no op 'fnn_layer' to prefer"),
        ("ffn_layer=acme.ffn", "it has default.ffn_layer"),
        ("gemm=acme.gemm", "a primitive has one implementation"),
    ):
        result = rtp(*run, "--prefer", wish)
        assert result.exit_code == 2
        assert said in result.stderr
    assert rtp(*run, "--prefer", "ffn_layer=default.ffn_layer").exit_code == 0


# -- rtp env -------------------------------------------------------------------------------------------------------


def test_env_has_the_default_models_plan_where_its_file_is_cached(
    rtp: RunRtp, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RTP_PLUGINS", "ref,handle")
    hashes = {p["kind"]: p["plan_hash"] for p in document(rtp("env", "--json"))["plugins"]}
    assert set(hashes.values()) == {None}
    monkeypatch.setattr(hub, "find", lambda name: model if name == hub.DEFAULT_MODEL else None)
    found = {p["kind"]: p["plan_hash"] for p in document(rtp("env", "--json"))["plugins"]}
    for kind in ("ref", "handle"):
        told = document(rtp("devices", "explain", "--model", model, "--device", kind, "--json"))
        assert found[kind] == told["hash"]
    assert found["cpu"] is None  # blocked


def test_env_tells_why_a_plan_cannot_be_had(rtp: RunRtp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTP_PLUGINS", "ref")
    bad = tmp_path / "model.gguf"
    bad.write_bytes(b"GGUF")
    monkeypatch.setattr(hub, "find", lambda name: bad)
    (plugin,) = [p for p in document(rtp("env", "--json"))["plugins"] if p["kind"] == "ref"]
    assert plugin["plan_hash"] is None
    assert str(bad) in plugin["plan_problem"]
    assert sys.executable not in plugin["plan_problem"]
