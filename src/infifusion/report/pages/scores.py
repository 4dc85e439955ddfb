"""Is the fused model better, where, how sure: accuracies and paired differences."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from infifusion.report.chart import Chart
from infifusion.report.dots import Dot, dot_chart
from infifusion.report.run_folder import Json, Run
from infifusion.report.summary import tasks_of
from infifusion.report.words import headline, outcome, p_value, signed_points, verdicts


def scores_view(run: Run) -> dict[str, Any] | None:
    """Accuracy per model and task with Wilson intervals, and every comparison; None where no task
    was run."""
    summary = run.summary
    tasks = tasks_of(summary)
    models = {name: m["scores"] for name, m in summary["models"].items() if m["scores"]}
    if not tasks:
        return None
    pairs = [paired(pair) for pair in summary["comparisons"]]
    fused = [name for name in models if run.kind_of(name) == "fused"]
    answers = {task: [m[task] for m in models.values() if task in m] for task in tasks}
    return {
        "tasks": [
            {
                "name": task,
                "n": max(score["n"] for score in scores),
                "best": max(score["accuracy"] for score in scores),
            }
            for task, scores in answers.items()
        ],
        "models": models,
        "charts": {
            f"scores-{task}": dot_chart(
                f"{task}: accuracy in %, 95 % interval",
                [
                    _accuracy_dot(name, run.kind_of(name), scores[task])
                    for name, scores in models.items()
                    if task in scores
                ],
            )
            for task in tasks
        },
        "metrics": [
            (name, task, score["headline"], _metrics(score))
            for name, result in run.scores.items()
            for task, score in result["scores"].items()
            if score.get("metrics")
        ],
        "headlines": [h for h in (headline(summary["comparisons"], name) for name in fused) if h],
        "verdicts": verdicts(summary["comparisons"]),
        "table": _by_pair(pairs, tasks, fused),
        "pairs": pairs,
        "pair_charts": difference_charts(pairs, tasks),
    }


def _metrics(score: Json) -> Json:
    """Our metrics, pass@k and maj@k, and lm-eval's of the same outputs."""
    found = dict(score["metrics"])
    for family in ("pass@k", "maj@k"):
        found |= {family.replace("k", k): e["value"] for k, e in score.get(family, {}).items()}
    theirs = {k: v for k, v in score.get("lm_eval", {}).items() if "_stderr," not in k}
    return found | {f"lm-eval {key}": value for key, value in theirs.items()}


def paired(pair: Json) -> dict[str, Any]:
    """A comparison with its figures in words."""
    return {
        **pair,
        "outcome": outcome(pair),
        "points": signed_points(pair["difference"]),
        "interval": " to ".join(signed_points(edge) for edge in pair["ci95"]),
        "p": p_value(pair["p_value"]),
    }


def difference_charts(pairs: list[dict[str, Any]], tasks: list[str]) -> dict[str, Chart]:
    """One chart per model that others are compared with, grouped by task."""
    return {
        f"difference-from-{base}": dot_chart(
            f"Difference from {base} in points, 95 % interval",
            difference_dots([pair for pair in pairs if pair["a"] == base], tasks, named_by="b"),
            zero=True,
        )
        for base in dict.fromkeys(pair["a"] for pair in pairs)
    }


def difference_dots(
    pairs: list[dict[str, Any]], tasks: Iterable[str], *, named_by: str
) -> list[Dot]:
    """A dot with its interval, in points, for each paired comparison; those of a task together."""
    return [
        Dot(
            pair[named_by],
            100 * pair["difference"],
            pair["points"],
            pair["outcome"],
            *(100 * edge for edge in pair["ci95"]),
            group=task,
        )
        for task in tasks
        for pair in pairs
        if pair["task"] == task
    ]


def _by_pair(
    pairs: list[dict[str, Any]], tasks: list[str], fused: list[str]
) -> list[dict[str, Any]]:
    """One row per pair of models with a cell per task; fused models first."""
    named = list(dict.fromkeys((pair["b"], pair["a"]) for pair in pairs))
    named.sort(key=lambda names: names[0] not in fused)  # stable: the recipe's order otherwise
    by_names = {(pair["b"], pair["a"], pair["task"]): pair for pair in pairs}
    return [
        {"b": b, "a": a, "cells": [by_names.get((b, a, task)) for task in tasks]} for b, a in named
    ]


def _accuracy_dot(name: str, kind: str, score: Json) -> Dot:
    low, high = (100 * edge for edge in score["ci95"])
    accuracy = 100 * score["accuracy"]
    return Dot(name, accuracy, f"{accuracy:.1f} %", kind, low, high)
