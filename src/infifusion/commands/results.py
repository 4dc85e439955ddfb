"""Commands that read what is there: watch, report, list."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from infifusion.commands.options import AsJson


def watch(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Folder of a run.")],
    once: Annotated[bool, typer.Option("--once", help="Print one frame and end.")] = False,
) -> None:
    """Follow a run from its folder alone, also one of another machine; ends when the run does."""
    from infifusion.progress.watch import watch_run

    watch_run(run_dir, once=once)


def report(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Folder of a run.")],
) -> None:
    """Write the report of a run again: index.html and summary.json."""
    from infifusion.report.page import write_report

    page = write_report(run_dir)
    typer.echo(f"Report: {page}")


def list_methods(as_json: AsJson = False) -> None:
    """Every fusion function, loss, merge method, chooser and task, one line each."""
    from infifusion.stages.catalogue import catalogue

    table = catalogue()
    if as_json:
        typer.echo(json.dumps(table))
        return
    for kind, entries in table.items():
        typer.echo(f"\n{kind}")
        for name, entry in entries.items():
            typer.echo(f"  {name:<20} {entry['line']}")
            typer.echo(f"  {'':<20} {entry['file']}")
