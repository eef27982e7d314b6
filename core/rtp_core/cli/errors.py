"""What a failed command says, and the code it ends with."""

from __future__ import annotations

import traceback

from rtp_core.cli.console import OutputError, discard_stdout, harmless, plain, stderr
from rtp_core.cli.exit_code import ExitCode
from rtp_core.cli.memory_dump import dump
from rtp_core.errors import (
    CacheError,
    ConfigError,
    DeviceError,
    ModelError,
    NetworkError,
    OutOfMemoryError,
    PlanError,
    RequestError,
    RtpError,
    SnapshotError,
)

# The first class that an exception is an instance of decides. A RtpError that is not here escaped from our own
# code (memory freed twice, memory of another space): a bug as much as any other exception.
EXIT_CODES: tuple[tuple[type[BaseException], ExitCode], ...] = (
    (KeyboardInterrupt, ExitCode.INTERRUPTED),
    (BrokenPipeError, ExitCode.OK),  # the reader of our output has seen enough
    (ConfigError, ExitCode.USAGE),
    (RequestError, ExitCode.USAGE),
    (ModelError, ExitCode.MODEL),
    (SnapshotError, ExitCode.MODEL),
    (DeviceError, ExitCode.DEVICE),
    (NetworkError, ExitCode.NETWORK),
    (PlanError, ExitCode.FAILED),
    (CacheError, ExitCode.FAILED),
    (OutputError, ExitCode.FAILED),
    (MemoryError, ExitCode.OUT_OF_MEMORY),  # our OutOfMemoryError, and the interpreter's own
)


def exit_code(error: BaseException) -> ExitCode:
    """The code for an exception that ended a command."""
    return next((code for kind, code in EXIT_CODES if isinstance(error, kind)), ExitCode.BUG)


def report(error: BaseException, *, debug: bool, command: str) -> ExitCode:
    """Tell the user on standard error why `command` failed, and return the exit code.

    `debug` adds traceback and memory table.
    """
    code = exit_code(error)
    if isinstance(error, BrokenPipeError):
        discard_stdout()
        return code
    if debug:
        _say("".join(traceback.format_exception(error)))
        _say(getattr(error, "table", ""))
    if code is ExitCode.INTERRUPTED:
        _say("interrupted")
    elif code is ExitCode.BUG:
        _show(
            f"this is a bug in rtp: {type(error).__name__}: {error}", hint="run it again with --debug for the traceback"
        )
    elif isinstance(error, RtpError):
        memory = dump(error) if isinstance(error, OutOfMemoryError) else ""
        _show(error.what, where=error.where, why=error.why, hint=error.hint or _hint(error, command), memory=memory)
    else:
        _show("out of memory", why=str(error), hint="give --max-model-len or --memory-budget a smaller value")
    return code


def _hint(error: RtpError, command: str) -> str:
    """The next command, where the place that failed could not know one."""
    if isinstance(error, OutOfMemoryError):
        return "raise --memory-budget, or lower --max-model-len"
    if isinstance(error, ConfigError | RequestError):
        return f"{command} --help"
    if isinstance(error, PlanError):
        return "rtp devices explain"
    if isinstance(error, DeviceError):
        return "rtp devices list"
    return "rtp models ls" if isinstance(error, ModelError) else "rtp env"


def _show(what: str, *, where: str = "", why: str = "", hint: str = "", memory: str = "") -> None:
    from rich.text import Text

    text = Text()
    text.append("error: ", "bold red").append(plain(what))
    for label, part in (("where", where), ("why", why), ("try", hint), ("see", memory)):
        if part:
            text.append(f"\n  {label + ':':<7}", "bold").append(plain(part))
    stderr().print(text, soft_wrap=True)


def _say(text: str) -> None:
    if text:
        stderr().print(harmless(text).rstrip("\n"), markup=False, highlight=False, soft_wrap=True)
