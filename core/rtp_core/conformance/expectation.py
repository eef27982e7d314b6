"""What a case expects of a device, and how it says that this is not so."""

from __future__ import annotations


class CheckFailed(AssertionError):
    """A device did not do what a case expects; the message says what was expected and what was got."""


def expect(condition: bool, message: str) -> None:
    """Raises CheckFailed with the message unless the condition holds."""
    if not condition:
        raise CheckFailed(message)


def reason(error: BaseException) -> str:
    """Why a case failed, on one line."""
    text = str(error) if isinstance(error, CheckFailed) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:1000]
