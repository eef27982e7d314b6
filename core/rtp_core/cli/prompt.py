"""Where the prompts of a command come from: the command line, or standard input."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

from rtp_core.cli.options import option
from rtp_core.errors import ConfigError, RequestError

_USAGE = 'rtp generate "Once upon a time"'
_USAGE_OF_TEXTS = 'rtp embed "Once upon a time" "In the beginning"'


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptOptions:
    """What is around the prompt."""

    raw: Annotated[bool, option("--raw", "Send the text as it is, without the model's chat template.")] = False
    system: Annotated[str | None, option("--system", "A system message before the prompt.")] = None

    def check(self) -> None:
        """Raises ConfigError for options that exclude each other."""
        if self.raw and self.system is not None:
            raise ConfigError("--system with --raw", why="raw text has no messages", hint="put it into the prompt")


def read_prompt(given: str | None, *, raw: bool) -> str:
    """The prompt itself, or standard input for `-` and for nothing. Raises RequestError for an empty one.

    The newline that ends piped text is the shell's, not the user's: it stays only with `raw`.
    """
    if given is not None and given != "-":
        text = given
    else:
        text = _standard_input(is_asked=given is not None, usage=_USAGE)
        if not raw:
            text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise RequestError("the prompt is empty", why="expected some text", hint=_USAGE)
    return text


def read_texts(given: list[str] | None) -> list[str]:
    """The texts themselves, or the lines of standard input for a single `-` and for nothing.

    Raises RequestError where there are none. An empty line is an empty text.
    """
    if given and given != ["-"]:
        return given
    text = _standard_input(is_asked=bool(given), usage=_USAGE_OF_TEXTS)
    if not text:
        raise RequestError("no texts", where="standard input", why="expected one a line", hint=_USAGE_OF_TEXTS)
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]


def _standard_input(*, is_asked: bool, usage: str) -> str:
    """All of it. Where nobody asked for it and it is a terminal, nobody is going to type either."""
    if sys.stdin is None or (not is_asked and sys.stdin.isatty()):
        raise RequestError("no prompt", why="expected one as argument, or text on standard input", hint=usage)
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise RequestError("cannot read the prompt", where="standard input", why=f"not UTF-8: {error}") from error
