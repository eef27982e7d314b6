"""The conversation with the process that probes: whatever comes back, there is an outcome, and then another plugin."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rtp_core.device.probing import ANSWER_BYTES, OUTPUT_BYTES, Outcome, Prober
from rtp_core.plugin import PLUGIN_API

Ask = Callable[[str], Outcome]

SOURCE = """
import json, os, sys
from rtp_core.plugin import DeviceInfo, Manifest, hookimpl

@hookimpl
def rtp_device_manifest():
    return Manifest(kind="acme", vendor="test", api=(1, 0), device_class="cpu", dtypes=("float32",))

def say(text):
    # To every pipe of this process, the one for answers among them.
    for end in range(3, 64):
        try:
            os.write(end, text)
        except OSError:
            pass

@hookimpl
def rtp_device_probe():
{body}
    return [DeviceInfo("acme:0", str(os.getpid()), 1, 1)]
"""


@pytest.fixture
def prober() -> Iterator[Prober]:
    with Prober() as made:
        yield made


@pytest.fixture
def ask(prober: Prober, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """ask(body): the outcome of a plugin with these lines in its probe. All are asked of one prober."""
    monkeypatch.syspath_prepend(tmp_path)

    def ask(body: str) -> Outcome:
        name = f"probed_{len(list(tmp_path.glob('*.py')))}"
        source = SOURCE.replace("{body}", textwrap.indent(textwrap.dedent(body), "    "))
        (tmp_path / f"{name}.py").write_text(source)
        return prober.ask("acme", name, PLUGIN_API, report=False)

    return ask


def pid(outcome: Outcome) -> str:
    assert outcome.answer is not None, outcome.failure
    name: str = outcome.answer["devices"][0]["name"]
    return name


def test_one_process_serves_plugin_after_plugin(ask: Ask) -> None:
    assert pid(ask("pass")) == pid(ask("pass"))


@pytest.mark.parametrize(
    ("body", "failure"),
    [
        ("say(b'hello\\n')", "its process answered"),
        ("say(b'[1]\\n')", "its process answered"),
        ("say(b'{}\\n')", "its process answered"),
        ('say(b\'{"phase": "lunch"}\\n\')', "its process answered"),
        ("say(b'{\"outcome\": 7}\\n')", "its process answered"),
        ("say(b'[' * 20000 + b'\\n')", "its process answered"),
        (f"while True: say(b'x' * {ANSWER_BYTES})", "its answer is longer than"),
        ("os.kill(os.getpid(), 9)", "killed by SIGKILL"),
        ("os._exit(0)", "its process ended with status 0"),
    ],
)
def test_a_plugin_that_spoils_the_conversation_is_to_blame_and_the_next_is_served(
    ask: Ask, body: str, failure: str
) -> None:
    before = pid(ask("pass"))
    outcome = ask(body)
    assert outcome.answer is None
    assert outcome.failure.startswith("its probe failed: ")
    assert failure in outcome.failure
    assert pid(ask("pass")) != before


@pytest.mark.parametrize(
    "body", ["raise KeyboardInterrupt", "raise SystemExit", "sys.stdout.close()", "sys.stdout = None"]
)
def test_a_process_survives_what_is_not_its_end(ask: Ask, body: str) -> None:
    before = pid(ask("pass"))
    assert ask(body).answer is not None
    assert pid(ask("pass")) == before


def test_only_the_end_of_a_flood_is_kept_and_it_blocks_nothing(ask: Ask) -> None:
    outcome = ask("for n in range(100000): print('line', n)")
    assert outcome.answer is not None
    assert len(outcome.output) <= OUTPUT_BYTES
    assert outcome.output.endswith("line 99999\n")
    assert ask("pass").output == ""


def test_a_process_that_was_started_ahead_is_the_one_that_is_asked(ask: Ask, prober: Prober) -> None:
    prober.start()
    assert prober._child is not None
    assert pid(ask("pass")) == str(prober._child._process.pid)


def test_a_process_that_was_not_asked_ends_with_the_context() -> None:
    with Prober() as prober:
        prober.start()
        assert prober._child is not None
        process = prober._child._process
        assert process.poll() is None
    assert process.returncode is not None


def test_one_that_cannot_be_started_ahead_is_an_outcome_of_the_question(
    ask: Ask, prober: Prober, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    prober.start()
    assert "/nowhere/python" in ask("pass").failure


def test_an_interpreter_that_cannot_be_started_is_an_outcome(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    outcome = ask("pass")
    assert outcome.answer is None
    assert "the interpreter that loads it failed" in outcome.failure
    assert "/nowhere/python" in outcome.failure
