"""What several commands take, and how they print."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="The recipe.")]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="a.b=c", help="Override one key of the recipe; repeatable."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


def run_command(recipe: Path, assignments: list[str] | None, run_dir: Path | None = None) -> str:
    """`infifusion run` of what another command was given."""
    words = ["infifusion", "run", str(recipe)]
    words += [] if run_dir is None else ["--run-dir", str(run_dir)]
    words += [word for assignment in assignments or [] for word in ("--set", assignment)]
    return shlex.join(words)


def say_loading() -> None:
    """A word to who waits at a terminal: torch and transformers take seconds to import."""
    if sys.stderr.isatty():
        typer.echo("Loading torch and transformers ...", err=True)


def show(table: Any) -> None:
    """A rich table on standard output."""
    from rich.console import Console

    Console().print(table)
