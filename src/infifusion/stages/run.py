"""run: the stages of a recipe, in order. Finished ones are skipped, an interrupted one goes on."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import infifusion
from infifusion.artifacts import write_json
from infifusion.recipe import STAGES, Recipe, as_json
from infifusion.report.page import write_report
from infifusion.report.summary import summarise
from infifusion.report.table import console_table
from infifusion.runtime import console, log, quiet_libraries, rank, set_up_logging, world_size
from infifusion.stages.cards import write_cards
from infifusion.stages.check import check_recipe
from infifusion.stages.distill import distill
from infifusion.stages.evaluate import compare_models, evaluate
from infifusion.stages.folders import PIVOT, RunFolder
from infifusion.stages.fuse import fuse
from infifusion.stages.merge import merge
from infifusion.stages.prepare import prepare
from infifusion.stages.teach import teach

PACKAGES = (
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "datasets",
    "tokenizers",
    "safetensors",
    "lm-eval",
    "math-verify",
    "numpy",
)


def run_recipe(
    recipe: Recipe, run_dir: Path, *, until: str, recipe_file: Path, command: str
) -> Path | None:
    """Run every stage up to and including `until`; returns the report's path, if it was made.

    Under torchrun or accelerate only `distill` uses all processes; the others wait for the first.
    Raises RecipeError, before anything is written, for whatever can be known beforehand.
    """
    set_up_logging()
    quiet_libraries()
    if rank() == 0:
        check_recipe(recipe)
    folder = RunFolder(run_dir.resolve())
    page: Path | None = None
    for stage, spread, work in _steps(recipe, folder):
        if STAGES.index(stage) > STAGES.index(until):
            break
        if rank() == 0 or spread:
            work()
            if stage == "prepare":
                _write_settings(recipe, folder, recipe_file, command)
        _wait()
    if until == "report" and rank() == 0:
        write_cards(recipe, folder, summarise(folder.root))
        page = write_report(folder.root)
        console.print(console_table(summarise(folder.root)))
        log.info("Report: %s", page)
    elif rank() == 0:
        log.info("Stopped after %s. Go on with: infifusion run %s", until, recipe_file)
    return page


def _steps(recipe: Recipe, folder: RunFolder) -> Iterator[tuple[str, bool, Callable[[], None]]]:
    """(stage, whether all processes take part, the work) in order."""
    plan = recipe.resolve()
    yield "prepare", False, lambda: prepare(recipe, folder)
    taught = {source for target in plan.targets for source in target.sources}
    names = [*(s for s in recipe.sources if s in taught), *([PIVOT] if plan.teach_pivot else [])]
    for name in names:
        yield "teach", False, lambda name=name: teach(recipe, folder, name)
    for target in plan.targets:
        yield "fuse", False, lambda target=target: fuse(recipe, folder, target)
    for training_run in plan.runs:
        yield "distill", True, lambda r=training_run: distill(recipe, folder, r)
    for merge_run in plan.merges:
        yield "merge", False, lambda m=merge_run: merge(recipe, folder, m)
    members = [r.name for r in plan.runs if r.name not in plan.scored]
    for name in [*plan.scored, *members]:
        yield "evaluate", False, lambda name=name: evaluate(recipe, folder, name, plan)
    yield "evaluate", False, lambda: compare_models(folder, plan, recipe.evaluate.tasks)


def _wait() -> None:
    """Until every process is here."""
    if world_size() > 1:
        import torch
        from accelerate import PartialState

        # Without `cpu` accelerate takes CPU-only processes for unrelated ones.
        PartialState(cpu=not torch.cuda.is_available()).wait_for_everyone()


def _write_settings(recipe: Recipe, folder: RunFolder, recipe_file: Path, command: str) -> None:
    """recipe.yaml as it was given, and resolved.json with everything decided."""
    copy = folder.root / "recipe.yaml"
    if recipe_file.resolve() != copy:
        shutil.copyfile(recipe_file, copy)
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    write_json(
        folder.root / "resolved.json",
        {
            "recipe": as_json(recipe),
            "plan": as_json(recipe.resolve()),
            "command": command,
            "versions": {
                "infifusion": infifusion.__version__,
                "python": platform.python_version(),
                **versions,
            },
        },
    )
