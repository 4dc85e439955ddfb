"""Any task of the installed lm-eval: asked and judged by lm-eval itself, counted item by item.

Our own tasks are asked by lm-eval and judged by us (harness.py); these are not looked into. Of each
item the task's first metric is kept, so that intervals and paired tests are the same as ours.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from infifusion.errors import DataError, RecipeError
from infifusion.evals.scoring import Item
from infifusion.evals.tasks import Task
from infifusion.registry import nearest

Places = Callable[[list[int]], list[list[int]]]
"""From the number of items in each part of a task to the places of those that are asked."""


def require_lm_tasks(tasks: Sequence[Task], *, data: Path | None, drawn: bool, where: str) -> None:
    """RecipeError, which begins with `where`, for a task that lm-eval does not have, or where
    answers are to be drawn: lm-eval's own tasks are asked once, by their own settings. Reads the
    index of its task files, which takes seconds; not where no such task is asked for."""
    asked = [task for task in tasks if task.lm_eval is not None]
    if not asked:
        return
    if drawn:
        raise RecipeError(
            f"{where}: {asked[0].name} is asked by lm-eval's own settings: `samples` and "
            "`temperature` have no effect there. Score it apart from tasks that need them."
        )
    manager = _manager(data)
    for task in asked:
        if task.lm_eval not in manager.all_tasks:
            import lm_eval

            hint = nearest(str(task.lm_eval), manager.all_tasks)
            raise RecipeError(
                f"{where}: lm-eval {lm_eval.__version__} has no task '{task.lm_eval}'.{hint} "
                "`lm-eval ls tasks` lists them; YAML files of your own are found in the folder of "
                "the data (evaluate.data, --data)."
            )


def lm_items(
    model: Any, task: Task, places: Places, *, data: Path | None, chat: bool
) -> list[Item]:
    """Every item that is asked, with what lm-eval says of it: id, prompt, output, gold, correct (by
    the first metric), the metrics that are right or wrong, and all of them under `lm_eval`.

    Raises DataError where the task's data cannot be had, and where its first metric is no right or
    wrong of single items (a perplexity, BLEU).
    """
    from infifusion.evals.lm_tasks import run_lm_eval

    name = str(task.lm_eval)
    try:
        parts = dict(_manager(data).load([name])["tasks"])
    except Exception as error:  # datasets and the hub raise many kinds, all about the input
        reason = str(error).strip().partition("\n")[0]
        raise DataError(
            f"The items of {task.name} cannot be loaded: {type(error).__name__}: {reason}. lm-eval "
            "reads them from the hub; without a connection they must lie in its cache."
        ) from error
    for part in parts.values():
        part.set_fewshot_seed(seed=0)
    found = places([len(part.eval_docs) for part in parts.values()])
    samples = {key: where for key, where in zip(parts, found, strict=True) if where}
    if not samples:
        return []
    try:
        logs = run_lm_eval(model, parts, samples, chat=chat)
    except ValueError as error:
        reason = " ".join(str(error).split())[:300].rstrip(".")
        raise DataError(f"{task.name}: lm-eval cannot run this task here: {reason}.") from error
    items = []
    for key, where in samples.items():
        logged: dict[int, list[dict[str, Any]]] = {}
        for sample in logs[key]:
            logged.setdefault(sample["doc_id"], []).append(sample)
        metrics = _metrics(parts[key])
        items += [_item(task, key, place, logged[place], metrics) for place in where]
    return items


def _metrics(part: Any) -> list[str]:
    """The task's metrics, the first one first."""
    listed = part.config.metric_list or []
    return [str(one["metric"]) for one in listed if isinstance(one["metric"], str)]


def _item(
    task: Task, key: str, place: int, samples: list[dict[str, Any]], metrics: list[str]
) -> Item:
    """One item as it is written down; samples: what lm-eval logged of it, once per filter."""
    first = samples[0]
    figures = {
        f"{metric},{sample['filter']}": float(sample[metric])
        for sample in samples
        for metric in sample["metrics"]
        if isinstance(sample[metric], bool | int | float)
    }
    named = [metric for metric in metrics if metric in first["metrics"]] or first["metrics"]
    headline = named[0] if named else ""
    value = first.get(headline)
    if value not in (0, 1):
        raise DataError(
            f"{task.name}: its first metric, {headline or 'none'}, is {value!r} for single items; "
            "what is counted here is right or wrong. Score it by lm_eval itself."
        )
    plain = {name: bool(v) for name in named if (v := first[name]) in (0, 1)}
    prompt, output = _said(first)
    return {
        "id": f"{key}/{place}",
        "prompt": prompt,
        "output": output,
        "gold": str(first["target"]),
        "extracted": output,
        "correct": bool(value),
        "truncated": False,
        "invalid": False,
        "too_long": False,
        "note": "",
        "headline": headline,
        **plain,
        "lm_eval": figures,
    }


def _said(sample: dict[str, Any]) -> tuple[str, str]:
    """The prompt, and what was generated or, of several continuations, the likeliest."""
    arguments, answers = sample["arguments"], sample["filtered_resps"]
    prompt = str(arguments[0][0])
    if len(arguments) > 1 and all(isinstance(one, tuple | list) for one in answers):
        best = max(range(len(answers)), key=lambda n: answers[n][0])
        return prompt, str(arguments[best][1])
    return prompt, str(answers[0] if answers else "")


@functools.cache
def _manager(data: Path | None) -> Any:
    """lm-eval's index of its task files, which takes seconds to read, and of the folder's own."""
    from lm_eval.tasks import TaskManager

    own = data is not None and any(data.glob("*.yaml"))
    return TaskManager(include_path=str(data) if own else None)
