"""`infifusion.run`: a recipe run from Python, and what it made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infifusion.errors import RecipeError
from infifusion.recipe import Recipe, anchor, load_recipe, require_stage
from infifusion.registry import nearest
from infifusion.report.summary import summarise
from infifusion.stages.distill import TrainingParts, training_parts
from infifusion.stages.run import run_recipe
from infifusion.store.folders import PIVOT, RunFolder, model_paths
from infifusion.teacher.gguf import in_folders


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


def parts_of_run(
    recipe: str | Path | Mapping[str, Any] | Recipe, run_dir: str | Path | None, name: str
) -> TrainingParts:
    """The parts of the training run `name`; see `infifusion.api.training_parts`."""
    loaded, _ = _loaded(recipe)
    runs = {one.name: one for one in loaded.resolve().runs}
    if name not in runs:
        raise RecipeError(
            f"There is no training run '{name}'.{nearest(name, runs)} Runs: {', '.join(runs)}."
        )
    folder = Path(run_dir or Path("runs") / loaded.name).resolve()
    run_recipe(
        loaded, folder, until="fuse", recipe_file=None, command="infifusion.training_parts(...)"
    )
    return training_parts(in_folders(loaded), RunFolder(folder), runs[name])


def run_from_python(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    run_dir: str | Path | None,
    *,
    until: str,
    redo: bool,
) -> Run:
    """Run a recipe given as a file, as its values or as a Recipe; see `infifusion.api.run`."""
    last = require_stage(until)
    loaded, file = _loaded(recipe)
    folder = Path(run_dir or Path("runs") / loaded.name).resolve()
    run_recipe(
        loaded, folder, until=last, recipe_file=file, command="infifusion.run(...)", redo=redo
    )
    paths = {name: Path(path) for name, path in model_paths(loaded, RunFolder(folder)).items()}
    made = {name: path for name, path in paths.items() if path.is_relative_to(folder)}
    return Run(folder, {n: p for n, p in made.items() if n != PIVOT and p.is_dir()})


def _loaded(recipe: str | Path | Mapping[str, Any] | Recipe) -> tuple[Recipe, Path | None]:
    """The recipe with its paths made absolute, and the file that it was read from, if any."""
    if isinstance(recipe, str | Path):
        return load_recipe(Path(recipe)), Path(recipe)
    if not isinstance(recipe, Recipe):
        recipe = Recipe.from_mapping(dict(recipe), where="the recipe")
    return anchor(recipe, Path.cwd()), None
