"""run: the stages of a recipe, in order. Finished ones are skipped, an interrupted one goes on."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import infifusion
from infifusion.artifacts import MANIFEST, write_json
from infifusion.plan.devices import CPU, device_marketed_as
from infifusion.recipe import STAGES, Recipe, as_json
from infifusion.report.page import write_report
from infifusion.report.summary import summarise
from infifusion.report.table import console_table
from infifusion.runtime import console, log, quiet_libraries, rank, set_up_logging, world_size
from infifusion.stages.cards import write_cards
from infifusion.stages.check import check_recipe
from infifusion.stages.choose import choose
from infifusion.stages.distill import distill
from infifusion.stages.evaluate import compare_models, evaluate
from infifusion.stages.folders import RunFolder
from infifusion.stages.fuse import fuse
from infifusion.stages.merge import merge
from infifusion.stages.plan import line_of_run
from infifusion.stages.prepare import prepare
from infifusion.stages.prompts import responding_sources
from infifusion.stages.respond import respond
from infifusion.stages.spread import wait_for
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
    recipe: Recipe,
    run_dir: Path,
    *,
    until: str,
    recipe_file: Path,
    command: str,
    redo: bool = False,
) -> Path | None:
    """Run every stage up to and including `until`; returns the report's path, if it was made.

    redo: a stage that was made with other settings is deleted and made anew, and so is what follows
    from it; without, it is an error.

    Under torchrun or accelerate all processes share `respond`, `teach`, `fuse`, `distill` and
    `evaluate`; the other stages are the first one's.
    Raises RecipeError, before anything is written, for whatever can be known beforehand.
    """
    set_up_logging()
    quiet_libraries()
    if rank() == 0:
        check_recipe(recipe)
    folder = RunFolder(run_dir.resolve(), redo)
    page: Path | None = None
    for stage, place, work in _steps(recipe, folder):
        if STAGES.index(stage) > STAGES.index(until):
            break
        work()
        if rank() != 0:
            wait_for([place / MANIFEST], stage)
        elif stage == "prepare" or (stage == until and stage in ("respond", "choose")):
            # The first stages may stand alone; now the settings are known to fit the folder.
            _write_settings(recipe, folder, recipe_file, command)
            _say_plan(recipe, folder)
    if STAGES.index(until) >= STAGES.index("evaluate") and rank() == 0:
        compare_models(folder, recipe.resolve(), recipe.evaluate.tasks)
    if until == "report" and rank() == 0:
        write_cards(recipe, folder, summarise(folder.root))
        page = write_report(folder.root)
        console.print(console_table(summarise(folder.root)))
        log.info("Report: %s", page)
    elif rank() == 0:
        log.info("Stopped after %s. Go on with: infifusion run %s", until, recipe_file)
    return page


def _say_plan(recipe: Recipe, folder: RunFolder) -> None:
    """What the whole run will cost, in one line, where this machine's rates are known."""
    import torch

    name = CPU
    if torch.cuda.is_available():
        name = device_marketed_as(torch.cuda.get_device_name())
    count = 1 if name == CPU else world_size()
    if line := line_of_run(recipe, folder.root, device=name, count=count):
        log.info("%s", line)


def _steps(recipe: Recipe, folder: RunFolder) -> Iterator[tuple[str, Path, Callable[[], None]]]:
    """(stage, the folder it signs, the work) in order."""
    plan = recipe.resolve()
    for name in responding_sources(recipe):
        yield "respond", folder.respond(name), lambda name=name: respond(recipe, folder, name)
    if recipe.write_responses is not None:
        yield "choose", folder.choose, lambda: choose(recipe, folder)
    yield "prepare", folder.prepare, lambda: prepare(recipe, folder)
    for name in plan.taught:
        yield "teach", folder.teach(name), lambda name=name: teach(recipe, folder, name)
    for one in plan.targets:
        if one.teacher == "cached":
            yield "fuse", folder.fuse(one.name), lambda one=one: fuse(recipe, folder, one)
    for one in plan.runs:
        yield "distill", folder.distill(one.name), lambda one=one: distill(recipe, folder, one)
    for one in plan.merges:
        yield "merge", folder.merge(one.name), lambda one=one: merge(recipe, folder, one)
    members = [r.name for r in plan.runs if r.name not in plan.scored]
    for name in [*plan.scored, *members]:
        place = folder.evaluate(name)
        yield "evaluate", place, lambda name=name: evaluate(recipe, folder, name, plan)


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
