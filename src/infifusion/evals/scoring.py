"""From outputs to judged items: the one path for real runs, reference solutions and tests."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from infifusion.errors import DataError
from infifusion.evals.math_worker import MathWorker
from infifusion.evals.statistics import wilson_interval
from infifusion.evals.tasks.task import Doc, Judgement, Task
from infifusion.process.bar import track
from infifusion.sandbox.programs import TIMEOUT, check_program

Item = dict[str, Any]


@dataclass(frozen=True)
class Output:
    """What a model wrote for one item.

    truncated: it reached the largest number of new tokens without an end.
    too_long:  the prompt leaves no room in the model's window; nothing was generated.
    """

    text: str
    truncated: bool = False
    too_long: bool = False


class Tools(MathWorker):
    """The sandbox and the math process, as scorers see them (task.Judges). A context manager."""

    def __init__(self, *, unsafe_code: bool = False) -> None:
        super().__init__()
        self.unsafe_code = unsafe_code

    def run_code(
        self, program: str, test: str, *, timeout: float | None = None
    ) -> tuple[bool, str]:
        """Run program, then test, in the sandbox: whether it passed, and why not."""
        verdict = check_program(
            program, test, timeout=timeout or TIMEOUT, unsafe_code=self.unsafe_code
        )
        return verdict.passed, verdict.reason


def score_outputs(
    task: Task,
    docs: Sequence[Doc],
    outputs: Sequence[Output],
    *,
    ids: Sequence[str] | None = None,
    prompts: Sequence[str] | None = None,
    unsafe_code: bool = False,
) -> list[Item]:
    """Judge one output per doc; one item each, in order.

    An item holds id, prompt, output, extracted, gold, correct (by the headline metric), truncated,
    invalid (no answer to be found), too_long, note and one key per metric. Raises DataError when
    the counts differ, ids repeat or a doc lacks a field; SandboxError when generated code cannot
    be run safely.
    """
    if len(docs) != len(outputs):
        raise DataError(f"{task.name}: {len(docs)} items but {len(outputs)} outputs.")
    ids = ids if ids is not None else [item_id(task, doc, at) for at, doc in enumerate(docs)]
    repeated = [name for name, count in Counter(ids).items() if count > 1]
    if repeated:
        raise DataError(
            f"{task.name}: the id {repeated[0]!r} stands on more than one item; ids join the items "
            f"of two models. Give each item its own '{task.id_field}'."
        )
    with Tools(unsafe_code=unsafe_code) as tools, ThreadPoolExecutor(_workers(task)) as pool:
        judged = pool.map(
            lambda pair: _judge(task, pair[0], pair[1].text, tools),
            zip(docs, outputs, strict=True),
        )
        judgements = list(track(judged, f"score {task.name}", len(docs), "answers"))
    prompts = prompts if prompts is not None else [""] * len(docs)
    return [
        {
            "id": name,
            "prompt": prompt,
            "output": output.text,
            "extracted": judgement.extracted,
            "gold": judgement.gold,
            "correct": judgement.metrics[task.headline],
            "truncated": output.truncated,
            "invalid": judgement.extracted is None,
            "too_long": output.too_long,
            "note": judgement.note,
            **judgement.metrics,
        }
        for name, prompt, output, judgement in zip(ids, prompts, outputs, judgements, strict=True)
    ]


def summarise(task: Task, items: Sequence[Item]) -> dict[str, Any]:
    """The counts of one task: n, correct, accuracy, ci95 (Wilson), every metric, what went wrong.

    Invalid, truncated and too long items stay in n; without an answer they are wrong.
    """
    n = len(items)
    if n == 0:
        raise DataError(f"{task.name}: there are no items. Check the task's data file.")
    correct = sum(item["correct"] for item in items)
    metrics = [key for key in items[0] if isinstance(items[0][key], bool) and key not in _COUNTED]
    return {
        "n": n,
        "correct": correct,
        "accuracy": correct / n,
        "ci95": list(wilson_interval(correct, n)),
        "headline": task.headline,
        "metrics": {metric: sum(item[metric] for item in items) / n for metric in metrics},
        "truncated": sum(item["truncated"] for item in items),
        "invalid": sum(item["invalid"] for item in items),
        "too_long": sum(item["too_long"] for item in items),
    }


_COUNTED = ("correct", "truncated", "invalid", "too_long")


def item_id(task: Task, doc: Doc, place: int) -> str:
    """The item's own name where it has one, else the task and its place in the file."""
    if task.id_field is not None and task.id_field in doc:
        return str(doc[task.id_field])
    return f"{task.name}/{place}"


def _judge(task: Task, doc: Doc, output: str, tools: Tools) -> Judgement:
    try:
        return task.score(task, doc, output, tools)
    except KeyError as error:
        raise DataError(
            f"{task.name}: an item has no field {error}. Fields: {', '.join(doc)}. Check "
            f"{task.file}."
        ) from error


def _workers(task: Task) -> int:
    """Sandboxes run side by side; everything else is fast, or has one process anyway."""
    return min(8, os.cpu_count() or 1) if task.needs_sandbox else 1
