"""The command line: every command by name, the version, the exit statuses."""

from __future__ import annotations

from typing import Annotated

import typer
from typer import Option

from infifusion.commands.exits import STATUSES, exit_statuses, stop_on_signals
from infifusion.commands.formats import convert, export
from infifusion.commands.init import init
from infifusion.commands.models import (
    align,
    diff,
    evaluate,
    extract_lora,
    merge,
    moe,
    transplant_tokenizer,
)
from infifusion.commands.push import push
from infifusion.commands.recipes import check, demo, plan, run, sweep
from infifusion.commands.results import doctor, list_methods, report, watch

COMMANDS = {
    "init": init,
    "doctor": doctor,
    "run": run,
    "sweep": sweep,
    "demo": demo,
    "check": check,
    "plan": plan,
    "watch": watch,
    "merge": merge,
    "moe": moe,
    "diff": diff,
    "extract-lora": extract_lora,
    "transplant-tokenizer": transplant_tokenizer,
    "align": align,
    "evaluate": evaluate,
    "report": report,
    "push": push,
    "convert": convert,
    "export": export,
    "list": list_methods,
}
"""Every command, in the order of the help."""

EPILOG = "\b\nExit statuses:\n" + "\n".join(
    f"{status:>5}  {meaning}" for status, meaning in STATUSES.items()
)

app = typer.Typer(
    name="infifusion",
    help="Fuse several LLMs of any architecture and tokenizer into one.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for name, command in COMMANDS.items():
    app.command(name)(command)


def main() -> None:
    """Entry point of the console script."""
    stop_on_signals()
    with exit_statuses():
        app(prog_name="infifusion")


@app.callback(invoke_without_command=True)
def version_or_help(
    version: Annotated[bool, Option("--version", help="Print the versions that matter.")] = False,
) -> None:
    """Nothing but --version."""
    if version:
        from infifusion.process.versions import version_lines

        typer.echo("\n".join(version_lines()))
        raise typer.Exit
