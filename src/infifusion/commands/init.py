"""infifusion init: asks on a terminal, takes options everywhere."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from infifusion.commands.options import work_offline_without_hub
from infifusion.errors import RecipeError


def init(
    pivot: Annotated[str | None, Option(help="The model to train: a folder or a hub name.")] = None,
    source: Annotated[
        list[str] | None,
        Option("--source", metavar="NAME=MODEL", help="A model to learn from; repeatable."),
    ] = None,
    train: Annotated[
        list[str] | None,
        Option("--train", metavar="[DOMAIN=]FILE", help="Training data, file or hub; repeatable."),
    ] = None,
    held_out: Annotated[
        list[str] | None,
        Option("--held-out", metavar="[DOMAIN=]FILE", help="Never trained on; repeatable."),
    ] = None,
    tasks: Annotated[
        str | None, Option(help="Tasks, separated by commas (infifusion list).")
    ] = None,
    template: Annotated[
        str | None,
        Option(
            metavar="NAME",
            help="math-code-general, pairwise-rsaf, merge-only, laptop, on-policy, 8xgpu, paper; "
            "or list.",
        ),
    ] = None,
    out: Annotated[Path, Option(help="The file to write.")] = Path("recipe.yaml"),
    force: Annotated[bool, Option("--force", help="Replace a file that is there.")] = False,
    yes: Annotated[bool, Option("--yes", help="Ask nothing.")] = False,
) -> None:
    """Write a commented recipe that fits this machine.

    Asks on a terminal for what the options do not give; or --template takes a whole recipe.
    """
    from infifusion.setup.templates import template_list

    if template == "list":
        typer.echo(template_list())
        return
    sources, trained, held = list(source or []), list(train or []), list(held_out or [])
    if template is None:
        if sys.stdin.isatty() and sys.stdout.isatty() and not yes:
            pivot = pivot or typer.prompt("Pivot, the model to train (folder or hub name)")
            sources = sources or _ask("Source, as NAME=MODEL")
            trained = trained or _ask("Training data, as DOMAIN=FILE")
            held = held or _ask("Held-out data, as DOMAIN=FILE", needed=False)
            if tasks is None:
                asked = "Tasks, such as gsm8k,humaneval (empty for none)"
                tasks = typer.prompt(asked, default="", show_default=False)
        wanted = {"--pivot": pivot, "--source": sources, "--train": trained}
        missing = [option for option, value in wanted.items() if not value]
        if missing:
            raise RecipeError(
                f"{', '.join(missing)} missing. For example: infifusion init --pivot ./pivot "
                "--source math=./math --train math=data.jsonl; or take a whole recipe: infifusion "
                "init --template laptop (infifusion init --template list)."
            )
    named = [pivot or "", *(text.partition("=")[2] for text in sources)]
    data = [_labelled(text)[1] for text in (*trained, *held)]
    work_offline_without_hub(name for name in (*named, *data) if name)
    from infifusion.setup.init import Wishes, write_recipe

    wishes = Wishes(
        template=template,
        pivot=pivot,
        sources=dict(_pair(text, "--source", "NAME=MODEL") for text in sources),
        train=tuple(_labelled(text) for text in trained),
        held_out=tuple(_labelled(text) for text in held),
        tasks=tuple(task.strip() for task in (tasks or "").split(",") if task.strip()),
    )
    typer.echo("\n".join(write_recipe(wishes, out, force=force)))


def _ask(question: str, *, needed: bool = True) -> list[str]:
    """Answers until an empty one."""
    answers: list[str] = []
    while True:
        more = " (empty: no more)" if answers or not needed else ""
        default = None if needed and not answers else ""
        answer = typer.prompt(question + more, default=default, show_default=False)
        if not answer.strip():
            return answers
        answers.append(answer.strip())


def _pair(text: str, option: str, form: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise RecipeError(f"{option} {text!r} is not of the form {form}: {option} math=./my-model.")
    return name, value


def _labelled(text: str) -> tuple[str, str]:
    """(domain, path); the file's own name where no domain is given."""
    name, equals, path = text.partition("=")
    if equals and name and "/" not in name:
        return name, path
    return Path(text).stem or "data", text
