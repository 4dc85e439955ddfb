"""evaluate: bits per byte and tasks for every model, then paired comparisons."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from infifusion.data.store import load_examples, load_rendered
from infifusion.errors import RecipeError
from infifusion.evals.harness import evaluate_model, merge_parts, read_items
from infifusion.evals.statistics import compare
from infifusion.evals.tasks import BITS, TASKS, Task, require_task
from infifusion.process.memory import BatchSize
from infifusion.process.runtime import log, rank, world_size
from infifusion.recipe import Model, Plan, Recipe, as_json
from infifusion.registry import look_up
from infifusion.store.artifacts import (
    State,
    close_stage,
    is_done,
    open_stage,
    read_manifest,
    share_stage,
    verify_stage,
)
from infifusion.store.folders import PIVOT, RunFolder, model_paths
from infifusion.store.hashes import sha256_of
from infifusion.store.identity import model_identity
from infifusion.store.receipts import Hashes, hashes_of, is_whole, mark_of, must_be_made, sign
from infifusion.store.records import read_record, write_json, write_record
from infifusion.store.spread import wait_for
from infifusion.teacher.bits import by_domain, response_bytes, response_nats
from infifusion.types import Rendered

PARTS, DONE = "parts", "part.json"


def evaluate(recipe: Recipe, folder: RunFolder, name: str, plan: Plan) -> None:
    """Score one model of the run: bits per byte on the held-out data, and the tasks. Processes
    share the items; the first one puts them together and signs."""
    model = _model_called(recipe, folder, name)
    tasks = recipe.evaluate.tasks if name in plan.scored else []
    out = folder.evaluate(name)
    rendering = name.removeprefix("source:") if name.startswith("source:") else PIVOT
    rendered_path = folder.rendered(rendering, "held_out")
    files = read_manifest(folder.prepare, made_by="prepare")["files"]
    table = task_table(recipe)
    fingerprint = {
        "model": model_identity(model),
        "held_out": files[str(rendered_path.relative_to(folder.prepare))],
        "tasks": {task: _task_files(table[task], recipe.evaluate.data) for task in tasks},
        "settings": settings_of(recipe),
    }
    if not is_done(out, fingerprint):  # a damaged model would look like another one
        verify_stage(folder.prepare, made_by="prepare")
        if not untrained(name):
            verify_stage(Path(model.model).parent, made_by="distill or merge")
    if untrained(name) or folder.distill(name).is_symlink():
        share_stage(out, fingerprint, folder.shared, redo=folder.redo)
    if open_stage(out, fingerprint, redo=folder.redo) is State.DONE:
        return
    started = time.monotonic()
    held_out = load_examples(folder.examples("held_out"))
    names = [example.id for example in held_out]
    rendered = load_rendered(rendered_path)
    _score_part(recipe, model, name, tasks, table, rendered, names, out)
    if rank() != 0:
        return
    parts = [_part(out, number) for number in range(world_size())]
    mark = mark_of(out)
    wait_for(
        (part / DONE for part in parts),
        f"evaluate {name}",
        there=lambda done: is_whole(done, lambda: _answers_of(done.parent), mark=mark),
    )
    scores = {task: merge_parts(parts, out, table[task]) for task in tasks}
    bits: dict[str, float] = {}
    if held_out:
        nats_N = np.concatenate([read_record(part / DONE)["nats"] for part in parts])
        domains = [example.domain for example in held_out]
        bits = by_domain(nats_N, response_bytes(rendered), domains)
    seconds = time.monotonic() - started
    result = {"path": model.model, "scores": scores, BITS: bits, "seconds": round(seconds, 1)}
    write_json(out / "scores.json", result)
    files = [out / "scores.json", *(out / f"{task}.jsonl" for task in tasks)]
    counts = {"held_out": len(held_out), "tasks": tasks}
    close_stage(out, fingerprint, counts=counts, seconds=seconds, files=files)
    log.info("evaluate %s: %s", name, _in_words(result))


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """What decides the items and the answers besides models and files. The seed, where it draws the
    items: scores of other items are not these."""
    asked = as_json(recipe.evaluate)
    keys = ("limit", "max_new_tokens", "batch_size", "unsafe_code")
    drawn = {} if recipe.evaluate.limit is None else {"seed": recipe.seed}
    return {**{key: asked[key] for key in keys}, **drawn}


def untrained(name: str) -> bool:
    """Whether a model is one that the run was given: its scores are the same in every run."""
    return name == PIVOT or name.startswith("source:")


def _part(out: Path, number: int) -> Path:
    """What process `number` of these scores."""
    return out / PARTS / f"{number}-of-{world_size()}"


def _score_part(
    recipe: Recipe,
    model: Model,
    name: str,
    tasks: list[str],
    table: dict[str, Task],
    rendered: Rendered,
    names: list[str],
    out: Path,
) -> None:
    """This process's share of the items and of the held-out examples."""
    part, mark = _part(out, rank()), mark_of(out)
    if not must_be_made(part / DONE, lambda: _answers_of(part), mark=mark, stage=out):
        return
    if tasks:
        evaluate_model(
            model,
            tasks=tasks,
            data=Path(recipe.evaluate.data) if recipe.evaluate.data else None,
            out=part,
            limit=recipe.evaluate.limit,
            batch_size=BatchSize(
                recipe.evaluate.batch_size,
                setting="evaluate.batch_size",
                less="a smaller evaluate.max_new_tokens, and quantization of the model",
            ),
            max_new_tokens=recipe.evaluate.max_new_tokens,
            part=(rank(), world_size()),
            extra_tasks={task: table[task] for task in tasks if task not in TASKS},
            unsafe_code=recipe.evaluate.unsafe_code,
            seed=recipe.seed,
        )
    begin, end = (len(rendered) * (rank() + more) // world_size() for more in (0, 1))
    nats_N = response_nats(
        model, rendered, begin, end, names=names, title=f"bits per byte of {name}"
    )
    sign(part / DONE, _answers_of(part), mark=mark, more={"nats": nats_N.tolist()})


def _answers_of(part: Path) -> Hashes:
    """The hashes of what a process wrote."""
    return hashes_of(sorted(part.glob("*.jsonl")), part)


def compare_models(folder: RunFolder, plan: Plan, tasks: list[str]) -> None:
    """Write evaluate/comparisons.json: every pair of the plan on every task, item by item.

    Raises ArtifactError naming the file where one of the answers has been damaged.
    """
    for name in {name for pair in plan.compared for name in pair}:
        verify_stage(folder.evaluate(name), made_by="evaluate")
    comparisons = [
        {
            "a": a,
            "b": b,
            "task": task,
            **compare(
                read_items(folder.evaluate(a) / f"{task}.jsonl"),
                read_items(folder.evaluate(b) / f"{task}.jsonl"),
            ),
        }
        for a, b in plan.compared
        for task in tasks
    ]
    write_record(folder.root / "evaluate" / "comparisons.json", {"comparisons": comparisons})


def task_table(recipe: Recipe) -> dict[str, Task]:
    """Our tasks and the recipe's own; RecipeError for a task that is in neither."""
    table = tasks_with(recipe.evaluate.tasks_from, where="evaluate.tasks_from")
    for task in recipe.evaluate.tasks:
        require_task(task, table, where="evaluate.tasks")
    return table


def tasks_with(tasks_from: str | None, *, where: str) -> dict[str, Task]:
    """Our tasks, and those of the table module:TABLE; `where` names the setting in errors."""
    if tasks_from is None:
        return dict(TASKS)
    more = look_up({}, tasks_from, kind="table of tasks", where=where)
    if not isinstance(more, dict) or not all(isinstance(t, Task) for t in more.values()):
        raise RecipeError(
            f"{where}: {tasks_from} is no dict of infifusion.evals.tasks.Task by name. See "
            "infifusion.demo.tasks:TASKS for one."
        )
    return TASKS | more


def _model_called(recipe: Recipe, folder: RunFolder, name: str) -> Model:
    """The model of that name; a trained or merged one is the pivot with other weights, which are
    loaded as they were written."""
    if name.startswith("source:"):
        return recipe.sources[name.removeprefix("source:")]
    if name == PIVOT:
        return recipe.pivot
    path = model_paths(recipe, folder)[name]
    # resolve: a run that other folders share lies in one place, and so do its scores.
    here = {
        "model": str(Path(path).resolve()),
        "tokenizer": None,
        "revision": None,
        "quantization": None,
    }
    return recipe.pivot.model_copy(update=here)


def _task_files(task: Task, data: str | None) -> dict[str, str]:
    path = Path(data or "") / task.file
    return {task.file: sha256_of(path) if data and path.is_file() else "hub"}


def _in_words(result: dict[str, Any]) -> str:
    parts = [f"{task} {100 * s['accuracy']:.1f} %" for task, s in result["scores"].items()]
    parts += [f"{domain} {value:.3f} bits per byte" for domain, value in result[BITS].items()]
    return ", ".join(parts)
