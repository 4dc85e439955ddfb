"""evaluate: bits per byte and tasks for every model, then paired comparisons."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from infifusion.data.store import load_examples, load_rendered
from infifusion.engine.engine import Remote
from infifusion.errors import RecipeError
from infifusion.evals.harness import evaluate_model, merge_parts, read_items
from infifusion.evals.statistics import compare
from infifusion.evals.tasks import BITS, TASKS, Task, require_task, with_lm_eval
from infifusion.process.memory import BatchSize
from infifusion.process.runtime import rank, world_size
from infifusion.process.versions import version_of
from infifusion.recipe import Model, Recipe, Resolved, as_json
from infifusion.registry import look_up
from infifusion.report.last_word import HELD_OUT
from infifusion.store.artifacts import is_done, verify_stage
from infifusion.store.folders import PIVOT, RunFolder, model_paths, tuning_read
from infifusion.store.hashes import sha256_of
from infifusion.store.identity import prepared_hash, running_identity
from infifusion.store.receipts import Pieces, hashes_of
from infifusion.store.records import Json, read_record, write_json, write_record
from infifusion.store.stage import Finished, Parts, Stage, Work, run_stage
from infifusion.teacher.bits import by_domain, response_bytes, response_nats
from infifusion.teacher.elsewhere import in_engine

PARTS, DONE = "parts", "part.json"


def evaluate(recipe: Recipe, folder: RunFolder, name: str, resolved: Resolved) -> None:
    """Score one model of the run: bits per byte on the held-out data, and the tasks.

    Each process has one part, its share of the items and of the held-out examples.
    """
    model = _model_called(recipe, folder, name)
    table = task_table(recipe)
    tasks = {
        task: table[task] for task in (recipe.evaluate.tasks if name in resolved.scored else [])
    }
    out = folder.evaluate(name)
    source = source_called(name)
    rendering = source or PIVOT
    rendered = folder.rendered(rendering, "held_out")
    fingerprint = {
        "model": running_identity(model),
        "held_out": prepared_hash(folder, rendered),
        "tasks": {key: decides_scores(task, recipe.evaluate.data) for key, task in tasks.items()},
        "settings": settings_of(recipe),
    }
    if not is_done(out, fingerprint):
        # Before the stage is opened: to it, a damaged model would be another model.
        verify_stage(folder.prepare, made_by="prepare")
        if source is not None:
            for place in tuning_read(folder, source, model):
                verify_stage(place, made_by="tune")
        elif name != PIVOT:
            verify_stage(Path(model.model).parent, made_by="distill or merge")
    stage = Stage(
        title=f"evaluate {name}",
        folder=out,
        fingerprint=fingerprint,
        work=partial(_work, recipe, folder, name, model, tasks, rendered),
        shared=untrained(name) or folder.distill(name).is_symlink(),
    )
    run_stage(stage, folder)


def _work(
    recipe: Recipe,
    folder: RunFolder,
    name: str,
    model: Model,
    tasks: dict[str, Task],
    rendered_path: Path,
) -> Work:
    started = time.monotonic()
    out = folder.evaluate(name)
    held_out = load_examples(folder.examples("held_out"))
    rendered = load_rendered(rendered_path)
    shares = [out / PARTS / f"{number}-of-{world_size()}" for number in range(world_size())]

    def make(missing: list[Path]) -> Iterator[tuple[Path, Json]]:
        if not missing:
            return
        longest = int(np.diff(rendered.offset_N1).max(initial=0))
        with contextlib.ExitStack() as stack:
            remote = None
            if model.engine is not None:
                asked = in_engine(model, where=f"evaluate {name}", longest=longest)
                remote = stack.enter_context(asked)
            for receipt in missing:
                if tasks:
                    _answer(recipe, model, tasks, receipt.parent, remote)
                begin, end = (len(rendered) * (rank() + more) // world_size() for more in (0, 1))
                nats_N = response_nats(
                    model,
                    rendered,
                    begin,
                    end,
                    names=[example.id for example in held_out],
                    title=f"bits per byte of {name}",
                    remote=remote,
                )
                yield receipt, {"nats": nats_N.tolist()}

    def finish() -> Finished:
        scores = {key: merge_parts(shares, out, task) for key, task in tasks.items()}
        bits: dict[str, float] = {}
        if held_out:
            nats_N = np.concatenate([read_record(share / DONE)["nats"] for share in shares])
            domains = [example.domain for example in held_out]
            bytes_N = response_bytes(rendered)
            bits = by_domain(nats_N, bytes_N, domains)
            each = {"nats": nats_N.tolist(), "bytes": bytes_N.tolist(), "domains": domains}
            write_json(out / HELD_OUT, each)
        seconds = round(time.monotonic() - started, 1)
        result = {"path": model.model, "scores": scores, BITS: bits, "seconds": seconds}
        write_json(out / "scores.json", result)
        return Finished(
            files=[
                out / "scores.json",
                *([out / HELD_OUT] if held_out else []),
                *(out / f"{task}.jsonl" for task in tasks),
            ],
            counts={"held_out": len(held_out), "tasks": list(tasks)},
            said=_in_words(result),
        )

    pieces = Pieces(out, lambda done: hashes_of(sorted(done.parent.glob("*.jsonl")), done.parent))
    return Work(finish, Parts([share / DONE for share in shares], pieces, make))


def _answer(
    recipe: Recipe, model: Model, tasks: dict[str, Task], out: Path, remote: Remote | None
) -> None:
    """Write the model's answers to this process's share of the items."""
    asked = recipe.evaluate
    evaluate_model(
        model,
        tasks=list(tasks.values()),
        data=Path(asked.data) if asked.data else None,
        out=out,
        limit=asked.limit,
        batch_size=BatchSize(
            asked.batch_size,
            setting="evaluate.batch_size",
            less="a smaller evaluate.max_new_tokens, and quantization of the model",
        ),
        max_new_tokens=asked.max_new_tokens,
        part=(rank(), world_size()),
        unsafe_code=asked.unsafe_code,
        seed=recipe.seed,
        samples=asked.samples,
        temperature=asked.temperature,
        top_p=asked.top_p,
        remote=remote,
    )


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """What decides the items and the answers besides models and files. The seed, where it draws the
    items or the answers: scores of others are not these."""
    asked = as_json(recipe.evaluate)
    keys = ("limit", "max_new_tokens", "batch_size", "unsafe_code")
    sampled = recipe.evaluate.temperature > 0
    drawn = {} if recipe.evaluate.limit is None and not sampled else {"seed": recipe.seed}
    keys += ("samples", "temperature", "top_p") if sampled else ()
    return {**{key: asked[key] for key in keys}, **drawn}


def untrained(name: str) -> bool:
    """Whether a model is one that the run was given: its scores are the same in every run."""
    return name == PIVOT or source_called(name) is not None


def source_called(name: str) -> str | None:
    """The source of `source:NAME`, or of `untuned:NAME`, what it was before it was tuned."""
    return name.partition(":")[2] or None


def compare_models(folder: RunFolder, resolved: Resolved, tasks: list[str]) -> None:
    """Write evaluate/comparisons.json: every pair of the plan on every task, item by item.

    Raises ArtifactError naming the file where one of the answers has been damaged.
    """
    for name in {name for pair in resolved.compared for name in pair}:
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
        for a, b in resolved.compared
        for task in tasks
    ]
    write_record(folder.root / "evaluate" / "comparisons.json", {"comparisons": comparisons})


def task_table(recipe: Recipe) -> dict[str, Task]:
    """Our tasks and the recipe's own; RecipeError for a task that is in neither."""
    table = tasks_with(recipe.evaluate.tasks_from, where="evaluate.tasks_from")
    table = with_lm_eval(table, recipe.evaluate.tasks)
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
    if (source := source_called(name)) is not None:
        return recipe.sources[source]
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


def decides_scores(task: Task, data: str | None) -> dict[str, str | int]:
    """What decides the scores of a task besides the answers: its items, and the rules of scoring
    (left out where they are the first ones, as runs of earlier versions have it)."""
    path = Path(data or "") / task.file
    rules = {"scoring": task.scoring} if task.scoring > 1 else {}
    if task.lm_eval is not None:
        rules = {"lm_eval": version_of("lm_eval") or ""}
    return {task.file: sha256_of(path) if data and path.is_file() else "hub", **rules}


def _in_words(result: dict[str, Any]) -> str:
    parts = [f"{task} {100 * s['accuracy']:.1f} %" for task, s in result["scores"].items()]
    parts += [f"{domain} {value:.3f} bits per byte" for domain, value in result[BITS].items()]
    return ", ".join(parts) or "nothing to score: no data.held_out, no evaluate.tasks"
