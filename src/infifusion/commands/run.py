"""`infifusion.run`: a recipe run from Python, and what it made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infifusion.recipe import Recipe, anchor, load_recipe, require_stage
from infifusion.report.summary import summarise
from infifusion.stages.run import run_recipe
from infifusion.store.folders import PIVOT, RunFolder, model_paths


@dataclass(frozen=True)
class Run:
    """A run that `run` made: its folder, and where its models lie."""

    folder: Path
    models: dict[str, Path]
    """Every distilled and merged model by name."""

    @property
    def summary(self) -> dict[str, Any]:
        """Scores, comparisons, stages and versions: what summary.json holds."""
        return summarise(self.folder)

    @property
    def report(self) -> Path:
        """The report's page; written by the last stage."""
        return self.folder / "report" / "index.html"


def run_from_python(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    run_dir: str | Path | None,
    *,
    until: str,
    redo: bool,
) -> Run:
    """Run a recipe given as a file, as its values or as a Recipe; see `infifusion.api.run`."""
    last = require_stage(until)
    file = None
    if isinstance(recipe, str | Path):
        file = Path(recipe)
        loaded = load_recipe(file)
    else:
        if not isinstance(recipe, Recipe):
            recipe = Recipe.from_mapping(dict(recipe), where="the recipe")
        loaded = anchor(recipe, Path.cwd())
    folder = Path(run_dir or Path("runs") / loaded.name).resolve()
    run_recipe(
        loaded, folder, until=last, recipe_file=file, command="infifusion.run(...)", redo=redo
    )
    paths = {name: Path(path) for name, path in model_paths(loaded, RunFolder(folder)).items()}
    made = {name: path for name, path in paths.items() if path.is_relative_to(folder)}
    return Run(folder, {n: p for n, p in made.items() if n != PIVOT and p.is_dir()})
