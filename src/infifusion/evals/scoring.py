"""From outputs to judged items: the one path for real runs, reference solutions and tests."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from infifusion.errors import DataError
from infifusion.evals import extract_program
from infifusion.evals.lm_figures import lm_eval_figures, summed_up
from infifusion.evals.math_worker import MathWorker
from infifusion.evals.same_answer.reasoning import after_reasoning
from infifusion.evals.statistics import majority_at, pass_at, share_interval
from infifusion.evals.tasks.task import Doc, Task
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

    def extract_program(self, output: str, prompt: str | None) -> str:
        """The program in an answer; see evals.extract_program."""
        return extract_program(output, prompt)


def score_outputs(
    task: Task,
    docs: Sequence[Doc],
    outputs: Sequence[Output | Sequence[Output]],
    *,
    ids: Sequence[str] | None = None,
    prompts: Sequence[str] | None = None,
    unsafe_code: bool = False,
) -> list[Item]:
    """Judge the outputs to every doc, one or several samples; one item each, in order.

    An item holds id, prompt, output, extracted, gold, correct (by the headline metric), truncated,
    invalid (no answer to be found), too_long, note, one key per metric, and `lm_eval`, what
    lm-eval's own metrics say. All that is of the first sample; where there are several, `samples`
    lists every one, `share` is how many of them are right, and `votes` how many gave each answer:
    [how many, whether it is right]. Raises DataError when the counts differ, ids repeat or a doc
    lacks a field; SandboxError when generated code cannot be run safely.
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
    prompts = prompts if prompts is not None else [""] * len(docs)
    samples = [[one] if isinstance(one, Output) else list(one) for one in outputs]
    with Tools(unsafe_code=unsafe_code) as tools, ThreadPoolExecutor(_workers(task)) as pool:
        judged = pool.map(partial(_item, task, tools), ids, docs, prompts, samples)
        return list(track(judged, f"score {task.name}", len(docs), "answers"))


def _item(
    task: Task, tools: Tools, name: str, doc: Doc, prompt: str, outputs: list[Output]
) -> Item:
    """One item as it is written down."""
    judged = [_judged(task, doc, prompt, output, tools) for output in outputs]
    first, gold = judged[0], judged[0].pop("gold")
    item = {"id": name, "prompt": prompt, "output": first["output"], "gold": gold} | first
    item["lm_eval"] = lm_eval_figures(task.name, doc, [one.text for one in outputs], tools)
    if len(outputs) > 1:
        item["share"] = sum(one["correct"] for one in judged) / len(judged)
        item["samples"] = [{k: v for k, v in one.items() if k != "gold"} for one in judged]
        if not task.needs_sandbox:
            item["votes"] = votes(judged, tools.same_answer)
    tools.math_fault()  # what was not answered just now is no fault of the next item's
    return item


def _judged(task: Task, doc: Doc, prompt: str, output: Output, tools: Tools) -> Item:
    """One sample, judged by what stands outside its reasoning."""
    answer = after_reasoning(output.text, prompt)
    try:
        judgement = task.score(task, doc, answer or "", tools)
    except KeyError as error:
        raise DataError(
            f"{task.name}: an item has no field {error}. Fields: {', '.join(doc)}. Check "
            f"{task.file}."
        ) from error
    return {
        "output": output.text,
        "extracted": judgement.extracted,
        "gold": judgement.gold,
        "correct": judgement.metrics[task.headline],
        "truncated": output.truncated or answer is None,
        "invalid": judgement.extracted is None,
        "too_long": output.too_long,
        "note": judgement.note,
        **judgement.metrics,
    }


def votes(judged: Sequence[Item], same: Callable[[str, str], bool]) -> list[tuple[int, bool]]:
    """How many samples gave each answer, and whether it is right; those without one do not vote.

    Right answers are one answer: each is the gold one. Wrong ones are compared by `same`, with the
    first of every group.
    """
    groups: list[tuple[str, list[bool]]] = []
    for one in judged:
        answer, right = one["extracted"], bool(one["correct"])
        if answer is None:
            continue
        for leader, members in groups:
            if members[0] == right and (right or leader == answer or same(leader, answer)):
                members.append(right)
                break
        else:
            groups.append((answer, [right]))
    return [(len(members), members[0]) for _, members in groups]


def summarise(task: Task, items: Sequence[Item]) -> dict[str, Any]:
    """The counts of one task: n, correct, accuracy, ci95, every metric, what went wrong.

    Invalid, truncated and too long items stay in n; without an answer they are wrong. lm_eval:
    what lm-eval prints for the same outputs. With several samples per item the counts are means
    over its samples, and there are `samples`, how many; `pass@k`, the chance that one of k samples
    is right; and `maj@k`, that the most frequent answer of k is, each as {value, ci95}. Every
    interval is Wilson's, over items (statistics.share_interval).
    """
    n = len(items)
    if n == 0:
        raise DataError(f"{task.name}: there are no items. Check the task's data file.")
    drawn = [item.get("samples") or [item] for item in items]
    size = len(drawn[0])
    metrics = [key for key in items[0] if isinstance(items[0][key], bool) and key not in _COUNTED]
    correct = _mean_of(drawn, "correct") * n
    shares = [item.get("share", float(item["correct"])) for item in items]
    summary = {
        "n": n,
        "correct": round(correct) if size == 1 else correct,
        "accuracy": correct / n,
        "ci95": list(share_interval(shares, size)),
        "headline": task.headline or items[0]["headline"],
        "metrics": {metric: _mean_of(drawn, metric) for metric in metrics},
    }
    for key in ("truncated", "invalid", "too_long"):
        counted = _mean_of(drawn, key) * n
        summary[key] = round(counted) if size == 1 else counted
    if items[0].get("lm_eval"):
        summary["lm_eval"] = summed_up([item["lm_eval"] for item in items])
    if size > 1:
        summary["samples"] = size
        right = [round(share * size) for share in shares]
        summary["pass@k"] = {
            str(k): _estimate([pass_at(k, c, size) for c in right], size) for k in _ks(size)
        }
        if "votes" in items[0]:
            summary["maj@k"] = {
                str(k): _estimate([majority_at(k, item["votes"], size) for item in items], size)
                for k in _ks(size)
            }
    return summary


_COUNTED = ("correct", "truncated", "invalid", "too_long")


def _mean_of(drawn: Sequence[Sequence[Item]], key: str) -> float:
    return sum(sum(bool(one[key]) for one in some) / len(some) for some in drawn) / len(drawn)


def _ks(size: int) -> list[int]:
    """1, 2, 4, ... below the number of samples, and that number."""
    return [2**power for power in range(size.bit_length()) if 2**power < size] + [size]


def _estimate(values: Sequence[float], size: int) -> dict[str, Any]:
    return {"value": math.fsum(values) / len(values), "ci95": list(share_interval(values, size))}


def item_id(task: Task, doc: Doc, place: int) -> str:
    """The item's own name where it has one, else the task and its place in the file."""
    if task.id_field is not None and task.id_field in doc:
        return str(doc[task.id_field])
    return f"{task.name}/{place}"


def _workers(task: Task) -> int:
    """Sandboxes run side by side; everything else is fast, or has one process anyway."""
    return min(8, os.cpu_count() or 1) if task.needs_sandbox else 1
