"""The `rtp` command with its subcommands, and the one place where their errors end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from rtp_core import __version__
from rtp_core.cli import bench, devices, embed, env, eval, generate, mem, models, plugin
from rtp_core.cli.console import write
from rtp_core.cli.errors import report


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

# Plain help: laying it out with rich costs more time than all the rest of `rtp --help`.
app = typer.Typer(cls=Commands, rich_markup_mode=None, pretty_exceptions_enable=False, epilog=_EXIT_CODES)
app.add_typer(devices.app, name="devices")
app.command("generate")(generate.generate)
app.command("embed")(embed.embed)
app.add_typer(models.app, name="models")
app.add_typer(bench.app, name="bench")
app.add_typer(eval.app, name="eval")
app.add_typer(mem.app, name="mem")
app.add_typer(plugin.app, name="plugin")
app.command("env")(env.env)


def command() -> Callable[..., Any]:
    """What typer makes of it all: call it to run."""
    return typer.main.get_command(app)


def _show_version(value: bool) -> None:
    if value:
        write(f"rtp {__version__}\n")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def rtp(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """LLM inference on any hardware whose vendor publishes a plugin."""
    if context.invoked_subcommand is None:
        write(context.get_help() + "\n")
