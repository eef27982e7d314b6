"""`rtp devices`: every plugin is a row, and a broken one tells why."""

from __future__ import annotations

from pathlib import Path

import pytest

from rtp_core.device import manifest
from rtp_core.device.manifest import PLUGIN_API, Manifest
from rtp_core.device.reference import MANIFEST

from .conftest import RunRtp
from .scripted_model import document, on_ref

ROW = {"kind", "dist", "version", "api", "state", "reason", "devices", "overrides"}


def test_list_has_every_plugin_with_its_devices(rtp: RunRtp) -> None:
    rows = {row["kind"]: row for row in document(rtp("devices", "list", "--json"))["plugins"]}
    ref = rows["ref"]
    assert set(ref) >= ROW
    assert (ref["dist"], ref["state"], ref["reason"], ref["api"]) == ("rtp-core", "AVAILABLE", "", list(PLUGIN_API))
    assert ref["overrides"] == []
    device = ref["devices"][0]
    assert device["id"] == "ref:0"
    assert 0 < device["memory_free_bytes"] <= device["memory_total_bytes"]
    table = rtp("devices", "list").stdout
    assert table.split()[:6] == ["KIND", "DIST", "VERSION", "API", "STATE", "DEVICES"]
    assert "ref:0" in table


def test_a_broken_plugin_is_a_row_and_the_others_work(rtp: RunRtp, model: Path, broken_plugin: str) -> None:
    listing = rtp("devices", "list", "--json")
    assert listing.exit_code == 4
    rows = {row["kind"]: row for row in document(listing)["plugins"]}
    assert (rows["acme"]["state"], rows["acme"]["dist"], rows["acme"]["version"]) == ("BROKEN", "rtp-acme", "0.3")
    assert broken_plugin in rows["acme"]["reason"]
    assert rows["acme"]["api"] is None
    assert rows["ref"]["state"] == "AVAILABLE"
    for_people = rtp("devices", "list")
    assert for_people.exit_code == 4
    assert f"acme is BROKEN: its module failed to load: ImportError: {broken_plugin}\n" in for_people.stdout

    asked_for = rtp("generate", "a", "--device", "acme", "--model", model)
    assert asked_for.exit_code == 4
    assert broken_plugin in asked_for.stderr
    assert "Traceback" not in asked_for.stderr
    automatic = rtp("generate", "a", "--model", model)
    assert automatic.exit_code == 4
    assert "--allow-device-fallback" in automatic.stderr
    assert rtp("generate", "a", *on_ref(model)).exit_code == 0


def test_a_blocked_plugin_is_healthy(rtp: RunRtp, broken_plugin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTP_PLUGINS", "-acme")
    listing = rtp("devices", "list", "--json")
    assert listing.exit_code == 0
    assert {row["kind"]: row["state"] for row in document(listing)["plugins"]}["acme"] == "BLOCKED"
    monkeypatch.setenv("RTP_PLUGINS", "-")
    assert rtp("devices", "list").exit_code == 2


def test_show_has_the_manifest(rtp: RunRtp) -> None:
    found = document(rtp("devices", "show", "ref", "--json"))
    assert set(found) >= ROW
    assert found["manifest"]["dtypes"] == list(MANIFEST.dtypes)
    assert found["manifest"]["schemes"] == list(MANIFEST.schemes)
    assert found["traceback"] is None
    assert "dtypes: float32, bfloat16, float16" in rtp("devices", "show", "ref").stdout


def test_show_has_the_original_traceback(rtp: RunRtp, broken_plugin: str) -> None:
    result = rtp("devices", "show", "acme", "--json")
    assert result.exit_code == 4
    found = document(result)
    assert found["manifest"] is None
    assert "rtp_acme_broken.py" in found["traceback"]
    text = rtp("devices", "show", "acme@rtp-acme").stdout
    assert "Traceback (most recent call last)" in text
    assert text.rstrip().endswith(f"ImportError: {broken_plugin}")


def test_an_incompatible_plugin_makes_the_listing_end_with_4(rtp: RunRtp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "PLUGIN_API", (MANIFEST.api[0] + 2, 0))
    listing = rtp("devices", "list", "--json")
    assert listing.exit_code == 4
    row = next(row for row in document(listing)["plugins"] if row["kind"] == "ref")
    assert (row["state"], row["api"]) == ("INCOMPATIBLE", list(MANIFEST.api))
    assert row["devices"] == []


def test_manifests_are_plain_data_for_json(rtp: RunRtp) -> None:
    found = document(rtp("devices", "show", "ref", "--json"))["manifest"]
    lists_as_tuples = {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}
    assert Manifest(**lists_as_tuples) == MANIFEST
