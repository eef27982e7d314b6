"""Chat templates: messages -> the text that a model was trained on. Rendered by minijinja, on a budget.

Templates come with the model and are hostile: they see the messages and nothing else, can load no other
template, and stop when their fuel or their share of output is used up.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from minijinja import Environment, TemplateError

from rtp_core.errors import ModelError, RequestError

_FUEL_BASE = 1_000_000  # instructions of the template engine, well under a second
_FUEL_PER_MESSAGE = 10_000
_MAX_TEMPLATE = 1 << 20  # characters
_MAX_OVERHEAD = 1 << 20  # characters of output beyond twice the messages' own

# Marks the assistant's words for training; it changes nothing in the text.
_GENERATION_TAG = re.compile(r"\{%(-?)\s*(end)?generation\s*(-?)%\}")


def render(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool = True,
    bos_token: str | None = None,
    eos_token: str | None = None,
    tools: Sequence[Mapping[str, Any]] | None = None,
    now: datetime | None = None,
    **variables: Any,
) -> str:
    """The prompt for `messages`, each with a `role` and a `content`, both strings.

    `variables` are passed to the template (such as `enable_thinking`); `now` is what `strftime_now` tells.
    Raises RequestError for bad messages, ModelError for a template that is invalid or does not end.
    """
    size = check_messages(messages)
    if len(template) > _MAX_TEMPLATE:
        raise ModelError("bad chat template", why=f"expected at most {_MAX_TEMPLATE} characters, got {len(template)}")
    environment = Environment(
        fuel=_FUEL_BASE + _FUEL_PER_MESSAGE * len(messages),
        trim_blocks=True,
        lstrip_blocks=True,
        pycompat=True,
        debug=False,
        auto_escape_callback=_no_escape,
    )
    environment.add_global("raise_exception", _raise_exception)
    environment.add_global("strftime_now", lambda form: (now or datetime.now()).strftime(form))
    environment.add_filter("tojson", _to_json)
    # The prompt's own variables come last: an option must not replace the messages.
    context = variables | {
        "messages": [dict(message) for message in messages],
        "add_generation_prompt": add_generation_prompt,
        "bos_token": bos_token or "",
        "eos_token": eos_token or "",
        "tools": None if tools is None else list(tools),
    }
    try:
        text = environment.render_str(_GENERATION_TAG.sub(_as_condition, template), **context)
    except RequestError:
        raise
    except TemplateError as error:
        why = str(error).splitlines()[0] if str(error) else "the template failed"
        if "out of fuel" in why:
            why = "it does not end"
        raise ModelError("bad chat template", why=why, hint="--raw sends the text without it") from error
    except (TypeError, ValueError, ArithmeticError, MemoryError) as error:  # from strftime or tojson on odd values
        raise ModelError("bad chat template", why=str(error), hint="--raw sends the text without it") from error
    if len(text) > 2 * size + _MAX_OVERHEAD:
        raise ModelError("bad chat template", why=f"it made {len(text)} characters of {size}")
    return text


def check_messages(messages: Sequence[Mapping[str, Any]]) -> int:
    """The characters in all messages. Raises RequestError unless each has a string `role` and `content`."""
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence) or not messages:
        raise RequestError("bad messages", why="expected a list of at least one message")
    size = 0
    for n, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise RequestError(f"bad message {n}", why=f"expected an object, got {type(message).__name__}")
        for key in ("role", "content"):
            value = message.get(key)
            if not isinstance(value, str) or (key == "role" and not value):
                raise RequestError(f"bad message {n}", why=f"expected a string {key!r}, got {type(value).__name__}")
            if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
                raise RequestError(f"bad message {n}", why=f"its {key!r} has half a surrogate pair, which is no text")
            size += len(value)
    return size


def _as_condition(tag: re.Match[str]) -> str:
    before, end, after = tag.groups()
    return f"{{%{before} {'endif' if end else 'if true'} {after}%}}"


def _no_escape(name: str) -> bool:
    return False


def _raise_exception(message: str) -> None:
    """What a template calls when it cannot take these messages, such as two users in a row."""
    raise RequestError("the chat template refuses these messages", why=str(message))


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    """As Jinja's filter, but without escaping for HTML."""
    separators, sort_keys = options.get("separators"), bool(options.get("sort_keys", False))
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
