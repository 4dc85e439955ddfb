"""Is the fused model better, where, how sure: accuracies and paired differences."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from infifusion.report.charts.chart import Chart
from infifusion.report.charts.dots import Dot, dot_chart
from infifusion.report.kinds import kind_of
from infifusion.report.run_folder import Run
from infifusion.report.summary import tasks_of
from infifusion.report.words import headline, outcome, p_value, signed_points, verdicts
from infifusion.store.records import Json


def scores_view(run: Run, summary: Json) -> dict[str, Any] | None:
    """Accuracy per model and task with Wilson intervals, and every comparison; None where no task
    was run."""
    tasks = tasks_of(summary)
    models = {name: m for name, m in summary["models"].items() if m["scores"]}
    if not tasks:
        return None
    pairs = [paired(pair) for pair in summary["comparisons"]]
    fused = [name for name in models if kind_of(run, name) == "fused"]
    return {
        "tasks": [
            {
                "name": task,
                "n": max(m["scores"][task]["n"] for m in models.values() if task in m["scores"]),
            }
            for task in tasks
        ],
        "rows": [
            {
                "model": name,
                "kind": kind_of(run, name),
                "cells": [_cell(models, task, name) for task in tasks],
            }
            for name in models
        ],
        "charts": {
            f"scores-{task}": dot_chart(
                f"{task}: accuracy in %, 95 % interval",
                [
                    _accuracy_dot(run, name, m["scores"][task])
                    for name, m in models.items()
                    if task in m["scores"]
                ],
            )
            for task in tasks
        },
        "metrics": [
            (name, task, score["headline"], score["metrics"])
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
    found = {(pair["b"], pair["a"], pair["task"]): pair for pair in pairs}
    return [
        {"b": b, "a": a, "cells": [found.get((b, a, task)) for task in tasks]} for b, a in named
    ]


def _cell(models: dict[str, Json], task: str, name: str) -> Json | None:
    score = models[name]["scores"].get(task)
    if score is None:
        return None
    best = max(m["scores"][task]["accuracy"] for m in models.values() if task in m["scores"])
    return {**score, "best": score["accuracy"] == best}


def _accuracy_dot(run: Run, name: str, score: Json) -> Dot:
    low, high = (100 * edge for edge in score["ci95"])
    shown = f"{100 * score['accuracy']:.1f} %"
    return Dot(name, 100 * score["accuracy"], shown, kind_of(run, name), low, high)
