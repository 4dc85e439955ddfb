"""Commands that read what is there: watch, report, list, doctor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from infifusion.commands.options import AsJson
from infifusion.process.wording import counted


def watch(
    run_dir: Annotated[Path, Argument(metavar="RUN_DIR", help="Folder of a run or sweep.")],
    once: Annotated[bool, Option("--once", help="Print one frame and end.")] = False,
) -> None:
    """Follow a run or sweep from its folder alone. Also another machine's; ends when it does."""
    from infifusion.progress.watch import watch_run

    watch_run(run_dir, once=once)


def report(
    run_dirs: Annotated[
        list[Path], Argument(metavar="RUN_DIR", help="A run, or several to compare.")
    ],
    export: Annotated[
        Path | None, Option(help="Write the figures here as SVG and CSV too.")
    ] = None,
    out: Annotated[
        Path | None,
        Option(help="Page of a comparison; comparison.html in this folder by default."),
    ] = None,
) -> None:
    """Write a run's report again, or compare several runs."""
    if len(run_dirs) == 1:
        from infifusion.report.pages.page import write_report

        if out is not None:
            raise typer.BadParameter(
                "--out is for comparisons: a run's own page lies in its folder."
            )
        page = write_report(run_dirs[0])
    else:
        from infifusion.report.pages.compare import write_comparison

        page = write_comparison(run_dirs, out or Path("comparison.html"))
    typer.echo(f"Report: {page}")
    if export is not None:
        from infifusion.report.pages.export import export_figures

        typer.echo(f"Figures: {len(export_figures(run_dirs, export))} files in {export}")


def list_methods(as_json: AsJson = False) -> None:
    """List what a recipe can name. Fusion functions, losses, merge methods, choosers, tasks."""
    from infifusion.commands.catalogue import catalogue

    table = catalogue()
    if as_json:
        typer.echo(json.dumps(table))
        return
    for kind, entries in table.items():
        typer.echo(f"\n{kind}")
        for name, entry in entries.items():
            typer.echo(f"  {name:<20} {entry['line']}")
            typer.echo(f"  {'':<20} {entry['file']}")


def doctor(as_json: AsJson = False) -> None:
    """Say whether this machine is ready. One line per check, each with what mends it."""
    from infifusion.setup.doctor import as_values, examine

    findings = examine()
    values = as_values(findings)
    if as_json:
        typer.echo(json.dumps(values))
    else:
        for one in findings:
            typer.echo(f"{one.state:<8} {one.check}: {one.found}")
            if one.mend:
                typer.echo(f"{'':<8} mend: {one.mend}")
        problems = sum(one.state == "problem" for one in findings)
        notes = sum(one.state == "note" for one in findings)
        said = f"{counted(problems, 'problem')}, {counted(notes, 'note')}"
        typer.echo(f"{said}. Next: infifusion init")
    if not values["ok"]:
        raise typer.Exit(1)
