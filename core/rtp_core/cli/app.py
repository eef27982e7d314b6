"""The `rtp` command with its subcommands, and the one place where their errors end.

A subcommand is a module of this package, by its name; importing all of them takes longer than running most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from rtp_core import __version__
from rtp_core.cli.console import write
from rtp_core.cli.errors import report

NAMES = ("devices", "generate", "embed", "models", "bench", "eval", "mem", "plugin", "env")


class Commands(TyperGroup):
    """The outermost command. Errors of the command line itself are typer's to show; they end with 2."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (Exception, KeyboardInterrupt) as error:
            if hasattr(error, "exit_code") or isinstance(error, typer.Abort):
                raise
            is_debug, command = ctx.meta.get("rtp.debug", False), ctx.meta.get("rtp.command", "rtp")
            raise typer.Exit(report(error, debug=is_debug, command=command)) from error


_EXIT_CODES = (
    "Exit codes: 0 ok, 1 a check failed or a file cannot be written, 2 usage, 3 model, 4 device, 5 out of memory, "
    "6 network, 70 a bug in rtp, 130 interrupted."
)


def app(names: Sequence[str] = NAMES) -> typer.Typer:
    """`rtp` with these of its subcommands."""
    # Plain help: laying it out with rich costs more time than all the rest of `rtp --help`.
    found = typer.Typer(cls=Commands, rich_markup_mode=None, pretty_exceptions_enable=False, epilog=_EXIT_CODES)
    found.callback(invoke_without_command=True)(rtp)
    for name in names:
        module = import_module(f"rtp_core.cli.{name}")
        if hasattr(module, "app"):
            found.add_typer(module.app, name=name)
        else:
            found.command(name)(getattr(module, name))
    return found


def command(words: Sequence[str]) -> Callable[..., Any]:
    """What typer makes of it: call it to run. `words` are those of the command line."""
    is_known = len(words) > 0 and words[0] in NAMES
    return typer.main.get_command(app(words[:1] if is_known else NAMES))


def _show_version(value: bool) -> None:
    if value:
        write(f"rtp {__version__}\n")
        raise typer.Exit


def rtp(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """LLM inference on any hardware whose vendor publishes a plugin."""
    if context.invoked_subcommand is None:
        write(context.get_help() + "\n")
