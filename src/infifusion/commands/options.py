"""What several commands take, and how they print."""

from __future__ import annotations

import os
import shlex
import socket
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="The recipe.")]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="a.b=c", help="Override one key of the recipe; repeatable."),
]
HUB = "https://huggingface.co"
HUB_SECONDS = 5.0
"""How long the hub may take to answer."""
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


def work_offline_without_hub(names: Iterable[str]) -> None:
    """Where names of the hub are asked for and it is out of reach, take what the cache has at once.

    Each name would be tried for half a minute otherwise. To be called before huggingface_hub is
    imported, which reads HF_HUB_OFFLINE then. Behind a proxy nothing is tried.
    """
    proxied = any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"))
    if proxied or "HF_HUB_OFFLINE" in os.environ or all(Path(name).exists() for name in names):
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


def show(table: Any) -> None:
    """A rich table on standard output."""
    from rich.console import Console

    Console().print(table)
