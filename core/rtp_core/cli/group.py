"""A command that only has subcommands; alone it shows its help."""

from __future__ import annotations

import typer

from rtp_core.cli.console import write


def command_group(help: str) -> typer.Typer:
    """An empty group of commands."""
    # Plain help: laying it out with rich costs more time than all the rest of `rtp --help`.
    group = typer.Typer(help=help, rich_markup_mode=None, pretty_exceptions_enable=False)
    group.callback(invoke_without_command=True, help=help)(_show_help)
    return group


def _show_help(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        write(context.get_help() + "\n")
