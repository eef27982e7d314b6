"""Where the prompt of a command comes from: the command line, or standard input."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

from rtp_core.cli.options import option
from rtp_core.errors import ConfigError, RequestError

_USAGE = 'rtp generate "Once upon a time"'


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
    elif sys.stdin is None or (given is None and sys.stdin.isatty()):
        raise RequestError("no prompt", why="expected one as argument, or text on standard input", hint=_USAGE)
    else:
        try:
            text = sys.stdin.buffer.read().decode()
        except UnicodeDecodeError as error:
            raise RequestError("cannot read the prompt", where="standard input", why=f"not UTF-8: {error}") from error
        if not raw:
            text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise RequestError("the prompt is empty", why="expected some text", hint=_USAGE)
    return text
