"""`infifusion push`, and `--push-to-hub` of the commands that make models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

if TYPE_CHECKING:
    from infifusion.recipe import Recipe

PushModels = Annotated[
    list[str] | None,
    Option(
        "--push-to-hub",
        metavar="MODEL=ORG/NAME",
        help="Upload this model of the run when all is done, private; repeatable. ORG/NAME is "
        "enough where the recipe makes one fused model.",
    ),
]
PushResult = Annotated[
    str | None,
    Option("--push-to-hub", metavar="ORG/NAME", help="Upload the result to the hub, private."),
]


def push(
    model_dir: Annotated[Path, Argument(metavar="MODEL_DIR", help="A model folder.")],
    repo: Annotated[str, Argument(metavar="ORG/NAME", help="Repository on the hub.")],
    public: Annotated[
        bool, Option("--public", help="Everyone may see it; private by default.")
    ] = False,
) -> None:
    """Upload a model folder to the hub. Private unless --public."""
    typer.echo(upload(model_dir, repo, public=public))


def upload(model_dir: Path, repo: str, *, public: bool = False) -> str:
    """Upload one folder; returns a sentence that says where it is."""
    from infifusion.commands.upload import push_model

    address = push_model(model_dir, repo, public=public)
    return f"Uploaded {model_dir} to {address} ({'public' if public else 'private'})."


def ready_to_push(asked: list[str] | None, recipe: Recipe) -> dict[str, str]:
    """Model -> repository, checked with the hub before a run starts."""
    if not asked:
        return {}
    from infifusion.commands.upload import check_login, models_to_push

    wanted = models_to_push(asked, recipe)
    check_login()
    return wanted


def push_models_of(run_dir: Path, recipe: Recipe, wanted: dict[str, str]) -> None:
    """Upload what `ready_to_push` returned, from the first process alone."""
    from infifusion.process.runtime import rank
    from infifusion.store.folders import RunFolder, model_paths

    paths = model_paths(recipe, RunFolder(run_dir)) if wanted and rank() == 0 else {}
    for name, path in paths.items():
        if name in wanted:
            typer.echo(upload(Path(path), wanted[name]))
