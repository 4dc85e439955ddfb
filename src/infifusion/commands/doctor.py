"""infifusion doctor: is this machine ready?"""

from __future__ import annotations

import json

import typer

from infifusion.commands.options import AsJson
from infifusion.process.wording import counted


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
