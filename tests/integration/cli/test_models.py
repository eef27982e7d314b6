"""`rtp models` and `rtp env`: what is there, told without loading anything."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rtp_core import __version__
from rtp_core.checkpoint import hub
from rtp_core.checkpoint.wheels import WheelSource

from .conftest import MakeModel, RunRtp
from .scripted_model import document


def test_ls_names_the_models_of_wheels_before_they_are_there(rtp: RunRtp) -> None:
    rows = document(rtp("models", "ls", "--json"))["models"]
    assert [row["name"] for row in rows] == [hub.DEFAULT_MODEL, hub.DEFAULT_EMBEDDING_MODEL]
    assert [(row["is_cached"], row["is_default"], row["path"]) for row in rows] == [
        (False, True, None),
        (False, False, None),
    ]
    assert [row["format"] for row in rows] == ["gguf", "safetensors"]
    assert f"{hub.DEFAULT_MODEL} (default)" in rtp("models", "ls").stdout


def test_pull_and_ls_give_the_path_of_a_cached_model(rtp: RunRtp, monkeypatch: pytest.MonkeyPatch) -> None:
    path = hub.WHEELS[hub.DEFAULT_MODEL].path
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    monkeypatch.setattr(WheelSource, "is_cached", lambda source: True)
    pulled = document(rtp("models", "pull", hub.DEFAULT_MODEL, "--json"))
    assert (pulled["name"], pulled["path"], pulled["format"]) == (hub.DEFAULT_MODEL, str(path), "gguf")
    assert rtp("models", "pull", hub.DEFAULT_MODEL).stdout == f"{path}\n"
    row = document(rtp("models", "ls", "--json"))["models"][0]
    assert (row["path"], row["is_cached"]) == (str(path), True)


def test_pulling_what_no_one_knows_ends_with_3(rtp: RunRtp) -> None:
    result = rtp("models", "pull", "no-such-model")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "rtp models ls" in result.stderr


def test_show_counts_parameters_and_bytes(rtp: RunRtp, make_model: MakeModel) -> None:
    folder = make_model(generation_config={"temperature": 0.6})
    (folder / "README.md").write_text("---\ntags: [x]\nlicense: apache-2.0\n---\n# Card\nlicense: none\n")
    found = document(rtp("models", "show", folder, "--json"))

    vocab_size = found["config"]["vocab_size"]
    per_layer = 2 * vocab_size + 4 * 32 * vocab_size + 3 * 1024 * vocab_size
    num_parameters = 2 * vocab_size * vocab_size + vocab_size + per_layer
    assert found["num_parameters"] == num_parameters
    assert found["tensor_types"] == {"float32": {"num_parameters": num_parameters, "size_bytes": 4 * num_parameters}}
    assert found["size_bytes"] == 4 * num_parameters
    assert found["license"] == "apache-2.0"
    assert found["has_chat_template"] is True
    assert found["generation_config"] == {"temperature": 0.6}
    assert (found["model_type"], found["format"], found["path"]) == ("llama", "safetensors", str(folder))
    assert "has_chat_template: yes" in rtp("models", "show", folder).stdout


def test_show_of_a_model_without_a_card_knows_no_license(rtp: RunRtp, model: Path) -> None:
    assert document(rtp("models", "show", model, "--json"))["license"] is None


def test_show_never_downloads(rtp: RunRtp) -> None:
    result = rtp("models", "show", hub.DEFAULT_MODEL)
    assert result.exit_code == 3
    assert f"rtp models pull {hub.DEFAULT_MODEL}" in result.stderr


def test_show_of_the_default_model(rtp: RunRtp, default_model_path: Path) -> None:
    found = document(rtp("models", "show", default_model_path, "--json"))
    assert (found["format"], found["license"], found["has_chat_template"]) == ("gguf", "apache-2.0", True)
    assert set(found["tensor_types"]) == {"float32", "q4_1", "q8_0"}
    assert found["num_parameters"] == 134_515_008


def test_env_is_one_report(rtp: RunRtp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTP_THREADS", "3")
    result = rtp("env", "--json")
    found = document(result)
    assert found["rtp"] == __version__
    assert found["variables"] == {"RTP_HOME": os.environ["RTP_HOME"], "RTP_THREADS": "3"}
    assert found["cache"] == os.environ["RTP_HOME"]
    assert found["machine"]["memory_total_bytes"] > 0
    assert found["machine"]["cores"] >= 1
    assert "ref" in {plugin["kind"] for plugin in found["plugins"]}
    text = rtp("env").stdout
    assert f"rtp: {__version__}\n" in text
    assert "  RTP_THREADS: 3\n" in text


def test_env_reports_a_broken_plugin_and_ends_with_0(rtp: RunRtp, broken_plugin: str) -> None:
    result = rtp("env", "--json")
    assert result.exit_code == 0
    row = next(plugin for plugin in document(result)["plugins"] if plugin["kind"] == "acme")
    assert broken_plugin in row["reason"]
    assert row["report"] == {}
