"""run: the stages of a recipe, in order. Finished ones are skipped, an interrupted one goes on."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml

from infifusion.data.prompts import responding_sources
from infifusion.errors import InfiFusionError, RunError
from infifusion.estimate.costs.devices import CPU, device_marketed_as
from infifusion.estimate.plan import plan_of_run, rates_are_known
from infifusion.estimate.room import bytes_to_come, disk_errors
from infifusion.estimate.table import summary_line
from infifusion.process import VERSION
from infifusion.process.redact import redact_text
from infifusion.process.runtime import (
    log,
    quiet_libraries,
    rank,
    set_up_logging,
    world_size,
)
from infifusion.process.threads import use_free_cores
from infifusion.process.versions import PACKAGES, version_of
from infifusion.progress.follow import FollowedRun, follow
from infifusion.progress.state import LOG, PROGRESS
from infifusion.recipe import STAGES, Recipe, as_json, as_written
from infifusion.stages.check import check_recipe
from infifusion.stages.choose import choose
from infifusion.stages.distill import distill
from infifusion.stages.evaluate import compare_models, evaluate, task_table
from infifusion.stages.fuse import fuse, taught_by
from infifusion.stages.merge import merge
from infifusion.stages.prepare import prepare
from infifusion.stages.report import report, write_cards
from infifusion.stages.respond import respond
from infifusion.stages.teach import teach
from infifusion.store.artifacts import MANIFEST, STARTED
from infifusion.store.durable import atomic_write
from infifusion.store.folders import RunFolder, with_tuned, without_tune
from infifusion.store.lock import LOCK, hold, release_claims
from infifusion.store.records import write_record
from infifusion.store.spread import wait_for
from infifusion.teacher.arithmetic import settled
from infifusion.teacher.gguf import in_folders


def run_recipe(
    recipe: Recipe,
    run_dir: Path,
    *,
    until: str,
    recipe_file: Path | None,
    command: str,
    redo: bool = False,
) -> Path | None:
    """Run every stage up to and including `until`; returns the report's path, if it was made.

    recipe_file: where the recipe was read from; None where it was made in Python.

    redo: a stage that was made with other settings is deleted and made anew, and so is what follows
    from it; without, it is an error.

    One run at a time has the folder. Under torchrun or accelerate all processes share `respond`,
    `teach`, `fuse`, `distill` and `evaluate`; the other stages are the first one's.
    Raises RecipeError, before anything is written, for whatever can be known beforehand.
    """
    set_up_logging()
    quiet_libraries()
    use_free_cores()
    recipe = in_folders(recipe)
    if rank() == 0:
        check_recipe(recipe, ask_hub=False, trials=_trains(recipe, run_dir))
    recipe = settled(recipe, run_dir)
    folder = RunFolder(run_dir.resolve(), redo)
    with hold(folder.root), disk_errors(recipe, folder, partial(_done, recipe, folder)):
        try:
            return _run_stages(
                recipe, folder, until=until, recipe_file=recipe_file, command=command
            )
        except InfiFusionError:
            _forget_if_nothing_was_made(folder.root)
            raise
        finally:
            release_claims()


def _run_stages(
    recipe: Recipe, folder: RunFolder, *, until: str, recipe_file: Path | None, command: str
) -> Path | None:
    last = STAGES.index(until)
    steps = [step for step in steps_of(recipe, folder) if STAGES.index(step.stage) <= last]
    names = [step.key for step in steps]
    with follow(folder.root, name=recipe.name, steps=names, command=command) as followed:
        for step in steps:
            stage = step.stage
            with followed.step(step.key, made=(step.place / MANIFEST).exists()):
                try:
                    step.work()
                except InfiFusionError:
                    _leave_nothing(step.place)
                    raise
            if rank() != 0:
                wait_for([step.place / MANIFEST], stage)
            elif stage == "prepare" or (stage == until and stage in ("respond", "choose")):
                # The first stages may stand alone; now the settings are known to fit the folder.
                write_settings(recipe, folder, recipe_file, command)
                _say_plan(recipe, folder, followed)
        return _finish(recipe, folder, until) if rank() == 0 else None


def _trains(recipe: Recipe, run_dir: Path) -> bool:
    """Whether a training run is still to be made."""
    folder = RunFolder(run_dir.resolve())
    resolved = recipe.resolve()
    runs = [*resolved.tuned, *resolved.runs]
    return any(not (folder.trained(run) / MANIFEST).exists() for run in runs)


def _finish(recipe: Recipe, folder: RunFolder, until: str) -> Path | None:
    """What follows the last step: comparisons, model cards, the report, as far as `until` goes."""
    last = STAGES.index(until)
    if last >= STAGES.index("evaluate"):
        compare_models(folder, recipe.resolve(), recipe.evaluate.tasks)
    if until == "report":
        return report(recipe, folder, task_table(recipe))
    if last >= STAGES.index("distill"):
        write_cards(recipe, folder, task_table(recipe))
    log.info("Stopped after %s. The same command without --until goes on.", until)
    return None


def _leave_nothing(place: Path) -> None:
    """Remove a stage's folder that holds nothing but its beginning, so that a corrected recipe can
    begin anew."""
    if rank() != 0 or place.is_symlink() or not place.is_dir():
        return
    if [path.name for path in place.iterdir()] == [STARTED]:
        shutil.rmtree(place)


def _forget_if_nothing_was_made(root: Path) -> None:
    """Remove the diary of a run that was refused before its first stage was done."""
    files = [path for path in root.rglob("*") if path.is_file() and not path.name.startswith(LOCK)]
    if rank() == 0 and {path.name for path in files} <= {LOG, PROGRESS}:
        for path in files:
            path.unlink(missing_ok=True)


def _say_plan(recipe: Recipe, folder: RunFolder, followed: FollowedRun) -> None:
    """What the whole run will cost, in one line, where this machine's rates are known; the run's
    view learns how long each step is to take.

    RunError where the disk cannot hold what is still to be written. Nothing where the recipe cannot
    be planned.
    """
    import torch

    known = CPU
    if torch.cuda.is_available():
        known = device_marketed_as(torch.cuda.get_device_name())
    device = known or CPU
    count = 1 if device == CPU else world_size()
    planned = plan_of_run(recipe, folder.root, device=device, count=count)
    if planned is None:
        return
    for sentence in planned["advice"]:
        log.warning("%s.", sentence)
    if known and rates_are_known(known):
        log.info("%s", summary_line(planned))
    rows = planned["rows"]
    followed.expect({f"{row['stage']}/{row['name']}".strip("/"): row["seconds"] for row in rows})
    _require_disk(bytes_to_come(rows, _done(recipe, folder)), folder)


def _require_disk(needed: int, folder: RunFolder) -> None:
    free = shutil.disk_usage(folder.root).free
    if needed > free:
        raise RunError(
            f"The run needs about {needed:,} more bytes, and the disk of {folder.root} has "
            f"{free:,} free. "
            "Make space, give another --run-dir, or write less (infifusion plan shows what takes "
            "the space; training.save_total_limit, teach.top_k and lora make it less); then run "
            "the same command again."
        )


def _done(recipe: Recipe, folder: RunFolder) -> set[str]:
    """Names of the steps that are finished."""
    return {s.key for s in steps_of(recipe, folder) if (s.place / MANIFEST).exists()}


@dataclass(frozen=True)
class Step:
    """One piece of work: what it is called, the folder it signs, the steps that come before."""

    stage: str
    name: str
    place: Path
    work: Callable[[], None]
    needs: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Its name among the steps of the run."""
        return f"{self.stage}/{self.name}".strip("/")


def steps_of(recipe: Recipe, folder: RunFolder) -> Iterator[Step]:
    """Everything a run does, in order. Sources that are tuned are the given ones until they are."""
    resolved = recipe.resolve()
    given, made = without_tune(recipe), list[str]()

    def tuned(work: Callable[..., None], *arguments: object) -> None:
        work(with_tuned(recipe, folder), folder, *arguments)

    for name in responding_sources(recipe):
        work = partial(respond, given, folder, name)
        yield Step("respond", name, folder.respond(name), work)
        made.append(f"respond/{name}")
    if recipe.write_responses is not None:
        yield Step("choose", "", folder.choose, partial(choose, given, folder), tuple(made))
        made = ["choose"]
    yield Step("prepare", "", folder.prepare, partial(prepare, given, folder), tuple(made))
    for one in resolved.tuned:
        work = partial(distill, given, folder, one)
        yield Step("tune", one.name, folder.tune(one.name), work, ("prepare",))
    tunes = {one.name: f"tune/{one.name}" for one in resolved.tuned}
    for name in resolved.taught:
        work = partial(tuned, teach, name)
        yield Step("teach", name, folder.teach(name), work, (tunes.get(name, "prepare"),))
    targets = {one.name: one for one in resolved.targets}
    cached = {one.name for one in resolved.targets if one.teacher == "cached"}
    for one in resolved.targets:
        if one.name in cached:
            needs = [f"teach/{name}" for name in taught_by(one)]
            work = partial(tuned, fuse, one)
            yield Step("fuse", one.name, folder.fuse(one.name), work, tuple(needs))
    runs = {run.name for run in resolved.runs}
    for one in resolved.runs:
        needs = [f"fuse/{one.target}"] if one.target in cached else ["prepare"]
        needs += [f"distill/{one.start}"] if one.start in runs else []
        if one.target in targets and (one.target not in cached or one.on_policy is not None):
            needs += [tunes[name] for name in targets[one.target].sources if name in tunes]
        work = partial(tuned, distill, one)
        yield Step("distill", one.name, folder.distill(one.name), work, tuple(needs))
    for one in resolved.merges:
        made_by = {**dict.fromkeys(runs, "distill"), **dict.fromkeys(recipe.merge, "merge")}
        needs = [f"{made_by[name]}/{name}" for name in one.models if name in made_by]
        needs += [tunes[n] for n in tunes if f"source:{n}" in one.models]
        work = partial(tuned, merge, one)
        yield Step("merge", one.name, folder.merge(one.name), work, tuple(needs))
    members = [r.name for r in resolved.runs if r.name not in resolved.scored]
    for name in [*resolved.scored, *members]:
        made_by = f"distill/{name}" if name in runs else f"merge/{name}"
        made_by = tunes.get(name.removeprefix("source:"), made_by)
        known = name in runs or name in recipe.merge or made_by in tunes.values()
        needs = (made_by if known else "prepare",)
        work = partial(tuned, evaluate, name, resolved)
        if name.startswith("untuned:"):
            work = partial(evaluate, given, folder, name, resolved)
        yield Step("evaluate", name, folder.evaluate(name), work, needs)


def write_settings(
    recipe: Recipe, folder: RunFolder, recipe_file: Path | None, command: str
) -> None:
    """recipe.yaml as it was given but for secrets and home paths, and resolved.json with everything
    decided. resolved.json names the models whose own code is run (trust_remote_code)."""
    if recipe_file is None:
        text = yaml.safe_dump(as_written(recipe), sort_keys=False)
    else:
        text = recipe_file.read_text(encoding="utf-8-sig")
    with atomic_write(folder.root / "recipe.yaml") as temporary:
        temporary.write_text(redact_text(text), encoding="utf-8")
    trusted = [f"source:{name}" for name, m in recipe.sources.items() if m.trust_remote_code]
    trusted = ["pivot", *trusted] if recipe.pivot.trust_remote_code else trusted
    if trusted:
        log.warning("trust_remote_code: code that comes with %s is run", ", ".join(trusted))
    versions = {"infifusion": VERSION, "python": platform.python_version()}
    write_record(
        folder.root / "resolved.json",
        {
            "recipe": as_json(recipe),
            "plan": as_json(recipe.resolve()),
            "command": command,
            "trust_remote_code": trusted,
            "versions": versions | {name: version_of(name) for name in PACKAGES},
        },
    )
