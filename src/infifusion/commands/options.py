"""What several commands take, and how they print."""

from __future__ import annotations

import os
import shlex
import socket
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer
from typer import Argument, Option

if TYPE_CHECKING:
    from infifusion.recipe import Recipe

RecipePath = Annotated[Path, Argument(metavar="RECIPE.yaml", help="The recipe.")]
Assignments = Annotated[
    list[str] | None,
    Option("--set", metavar="a.b=c", help="Override one key of the recipe; repeatable."),
]
HUB = "https://huggingface.co"
HUB_SECONDS = 5.0
"""Seconds that the hub may take to answer."""
AsJson = Annotated[bool, Option("--json", help="Print one JSON object and nothing else.")]
Threads = Annotated[int | None, Option(min=1, help="Threads; by default one per processor.")]
ShardSize = Annotated[str, Option(help="Largest file of the result.")]
AllowPickle = Annotated[
    bool, Option("--allow-pickle", help="Read .bin and .pt files, tensors alone.")
]


def run_command(recipe: Path, assignments: list[str] | None, run_dir: Path | None = None) -> str:
    """The `infifusion run` command for the recipe and options that another command was given."""
    words = ["infifusion", "run", str(recipe)]
    words += [] if run_dir is None else ["--run-dir", str(run_dir)]
    words += [word for assignment in assignments or [] for word in ("--set", assignment)]
    return shlex.join(words)


def this_command() -> str:
    """The command line as it was given, for the settings of a run."""
    return " ".join(["infifusion", *sys.argv[1:]])


def say_loading() -> None:
    """Tell a user at a terminal what takes seconds: torch and transformers are imported."""
    if sys.stderr.isatty():
        typer.echo("Loading torch and transformers ...", err=True)


def work_offline_for(recipe: Recipe) -> None:
    """`work_offline_without_hub` for the models and the data of a recipe."""
    data, asked = recipe.data, recipe.write_responses
    files = [*data.train, *data.held_out, *data.decontaminate, *(asked.prompts if asked else [])]
    models = [recipe.pivot, *recipe.sources.values()]
    names = [one.tokenizer for one in models if one.tokenizer]
    work_offline_without_hub([*(one.path for one in files), *(one.model for one in models), *names])


def work_offline_without_hub(names: Iterable[str]) -> None:
    """Use the hub's cache alone where names of the hub are needed and the hub is out of reach.

    Otherwise each name would be tried for half a minute. To be called before huggingface_hub is
    imported, which reads HF_HUB_OFFLINE then. Behind a proxy nothing is tried.
    """
    proxied = any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"))
    if proxied or "HF_HUB_OFFLINE" in os.environ or not any(map(_of_hub, names)):
        return
    endpoint = os.environ.get("HF_ENDPOINT", HUB)
    place = urlsplit(endpoint)
    port = place.port or (80 if place.scheme == "http" else 443)
    try:
        socket.create_connection((place.hostname or "", port), timeout=HUB_SECONDS).close()
    except OSError as error:
        os.environ["HF_HUB_OFFLINE"] = "1"
        typer.echo(
            f"{endpoint} cannot be reached ({error}): of the hub, what lies in the cache is taken.",
            err=True,
        )


def _of_hub(name: str) -> bool:
    """Whether a name can only be one of the hub: not here, and not written as a path."""
    return not (Path(name).exists() or name.startswith(("/", ".", "~")) or "*" in name)


def show(table: Any) -> None:
    """A rich table on standard output."""
    from rich.console import Console

    Console().print(table)
