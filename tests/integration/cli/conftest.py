"""`rtp` in this process, with a scripted model and an environment of its own."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from rtp_core.cli.app import app

from .scripted_model import on_ref, write_model

MakeModel = Callable[..., Path]
RunRtp = Callable[..., Result]


@pytest.fixture(autouse=True)
def _own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("RTP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RTP_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> MakeModel:
    """make_model(config=..., generation_config=..., chat_template=...): a folder with a scripted llama."""

    def make(**files: Any) -> Path:
        return write_model(tmp_path_factory.mktemp("model"), **files)

    return make


@pytest.fixture(scope="session")
def model(make_model: MakeModel) -> Path:
    return make_model()


@pytest.fixture
def rtp() -> RunRtp:
    """rtp(*arguments, input=...): run the command line in this process."""
    runner = CliRunner()

    def run(*arguments: object, input: str | bytes | None = None) -> Result:
        try:
            return runner.invoke(app(), [str(argument) for argument in arguments], input=input)
        finally:
            gc.unfreeze()  # this process goes on, and has garbage of its own

    return run


@pytest.fixture
def generate(rtp: RunRtp, model: Path) -> RunRtp:
    """generate(*arguments): `rtp generate` of the scripted model on the reference device."""

    def run(*arguments: object, input: str | bytes | None = None) -> Result:
        return rtp("generate", *on_ref(model), *arguments, input=input)

    return run


@pytest.fixture
def broken_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An installed plugin of kind `acme` whose module fails to import; the message it fails with."""
    message = "libacme.so.7: cannot open shared object file"
    (tmp_path / "rtp_acme_broken.py").write_text(f"raise ImportError({message!r})\n")
    info = tmp_path / "rtp_acme-0.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rtp-acme\nVersion: 0.3\n")
    (info / "entry_points.txt").write_text("[rtp.devices]\nacme = rtp_acme_broken\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield message
