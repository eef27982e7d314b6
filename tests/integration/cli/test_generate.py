"""`rtp generate` from prompt to text."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from .conftest import MakeModel, RunRtp
from .scripted_model import CHAT_TEMPLATE, SCRIPTS, document, on_ref


def test_chat_template_is_applied_and_raw_text_is_not(generate: RunRtp, model: Path) -> None:
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    chat = document(generate("hello", "--json"))
    raw = document(generate("a", "--raw", "--json"))

    prompt = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    assert chat["prompt_token_ids"] == tokenizer.encode(prompt).ids
    assert chat["text"] == SCRIPTS["\n"]
    assert raw["prompt_token_ids"] == tokenizer.encode("a").ids
    assert raw["text"] == SCRIPTS["a"]


def test_json_has_tokens_reason_device_and_timings(generate: RunRtp, model: Path) -> None:
    result = generate("a", "--raw", "--json", "--seed", 7)
    found = document(result)

    end = Tokenizer.from_file(str(model / "tokenizer.json")).token_to_id("<|im_end|>")
    assert found["token_ids"][-1] == end
    assert len(found["token_ids"]) == len(SCRIPTS["a"].encode()) + 1
    assert (found["finish_reason"], found["device"], found["model"]) == ("stop", "ref:0", str(model))
    assert found["seed"] == 7
    assert len(found["plan_hash"]) == 16
    times = found["timings"]
    assert set(times) == {"load_s", "prefill_s", "decode_s", "prefill_tokens_per_s", "decode_tokens_per_s"}
    assert all(value > 0 for value in times.values())
    decoded = len(found["token_ids"]) - 1
    assert times["decode_tokens_per_s"] == pytest.approx(decoded / times["decode_s"])
    assert result.stderr == "ref:0: decode steps run op by op: this device records no steps\n"


def test_a_single_token_has_no_decode_speed(generate: RunRtp) -> None:
    found = document(generate("z", "--raw", "--json", "--max-tokens", 1))
    assert (found["text"], found["finish_reason"]) == ("y", "length")
    assert found["timings"]["decode_tokens_per_s"] == 0


def test_text_goes_to_stdout_and_timings_to_stderr(generate: RunRtp) -> None:
    result = generate("a", "--raw")
    assert result.stdout == SCRIPTS["a"] + "\n"
    assert "ref:0: load" in result.stderr
    assert "tokens/s | stop" in result.stderr


def test_piped_text_loses_its_last_newline_but_not_with_raw(generate: RunRtp, model: Path) -> None:
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    by_argument = document(generate("two\nlines", "--json"))
    for dash in (["-"], []):
        assert (
            document(generate(*dash, "--json", input="two\nlines\n"))["prompt_token_ids"]
            == (by_argument["prompt_token_ids"])
        )
    raw = document(generate("-", "--raw", "--json", input="a\n"))
    assert raw["prompt_token_ids"] == tokenizer.encode("a\n").ids


def test_system_message_comes_first(generate: RunRtp, model: Path) -> None:
    found = document(generate("q", "--system", "be brief", "--json"))
    expected = "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
    assert found["prompt_token_ids"] == Tokenizer.from_file(str(model / "tokenizer.json")).encode(expected).ids
    assert "system" not in CHAT_TEMPLATE


def test_stop_strings_and_ignore_eos(generate: RunRtp) -> None:
    stopped = document(generate("z", "--raw", "--json", "--stop", "xz", "--stop", "never"))
    assert (stopped["text"], stopped["finish_reason"]) == ("y", "stop")
    past_end = document(generate("a", "--raw", "--json", "--ignore-eos", "--max-tokens", 20))
    assert len(past_end["token_ids"]) == 20


def test_options_come_from_the_environment_too(generate: RunRtp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTP_MAX_TOKENS", "4")
    monkeypatch.setenv("RTP_RAW", "1")
    assert document(generate("z", "--json"))["text"] == "yxzy"
    assert document(generate("z", "--json", "--max-tokens", 2))["text"] == "yx"  # the flag wins


def test_a_bad_environment_value_is_a_usage_error_that_names_it(
    generate: RunRtp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RTP_MAX_TOKENS", "many")
    result = generate("z")
    assert result.exit_code == 2
    assert "RTP_MAX_TOKENS" in result.stderr


def test_sampling_defaults_come_from_the_model(rtp: RunRtp, make_model: MakeModel) -> None:
    broken = make_model(generation_config={"top_p": 0.0})
    result = rtp("generate", "z", "--raw", *on_ref(broken))
    assert result.exit_code == 3
    assert "top_p" in result.stderr  # it was read, and it was refused
    penalty = make_model(generation_config={"do_sample": False, "repetition_penalty": 1.3})
    result = rtp("generate", "z", "--raw", "--max-tokens", 2, *on_ref(penalty))
    assert (result.exit_code, result.stdout) == (0, "yx\n")
    assert "repetition_penalty" in result.stderr


def test_a_model_without_a_template_gets_the_text_as_it_is(rtp: RunRtp, make_model: MakeModel) -> None:
    plain = make_model(chat_template=False)
    assert document(rtp("generate", "a", "--json", *on_ref(plain)))["text"] == SCRIPTS["a"]
    result = rtp("generate", "a", "--system", "s", *on_ref(plain))
    assert result.exit_code == 2
    assert "no chat template" in result.stderr
