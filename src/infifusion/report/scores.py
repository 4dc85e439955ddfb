"""Is the fused model better, where, how sure: tables and charts of scores."""

from __future__ import annotations

from typing import Any

from infifusion.artifacts import Json
from infifusion.report.charts import Dot, dot_chart
from infifusion.report.run_folder import PIVOT, Run
from infifusion.report.summary import domains_of, tasks_of
from infifusion.report.words import outcome, p_value, signed_points, verdicts


def kind_of(run: Run, model: str) -> str:
    """pivot, source, tuned (on gold alone) or fused: decides a model's colour."""
    if model == PIVOT:
        return "pivot"
    if model.startswith("source:"):
        return "source"
    tuned = {r["name"] for r in run.plan.get("runs", []) if r.get("target") is None}
    return "tuned" if model in tuned or model == "sft" else "fused"


def scores_view(run: Run, summary: Json) -> dict[str, Any] | None:
    """Accuracy per model and task with Wilson intervals; None where no task was run."""
    tasks = tasks_of(summary)
    models = {name: m for name, m in summary["models"].items() if m["scores"]}
    if not tasks:
        return None
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
        "charts": [
            dot_chart(
                f"{task}: accuracy in %, 95 % interval",
                [
                    _accuracy_dot(run, name, m["scores"][task])
                    for name, m in models.items()
                    if task in m["scores"]
                ],
            )
            for task in tasks
        ],
        "metrics": [
            (name, task, score["headline"], score["metrics"])
            for name, result in run.scores.items()
            for task, score in result["scores"].items()
            if score.get("metrics")
        ],
        "verdicts": verdicts(summary["comparisons"]),
        "pairs": [
            {
                **pair,
                "outcome": outcome(pair),
                "points": signed_points(pair["difference"]),
                "interval": " to ".join(signed_points(edge) for edge in pair["ci95"]),
                "p": p_value(pair["p_value"]),
            }
            for pair in summary["comparisons"]
        ],
        "pair_charts": [
            dot_chart(
                f"{task}: difference in points",
                [_difference_dot(p) for p in summary["comparisons"] if p["task"] == task],
                zero=True,
            )
            for task in tasks
            if any(p["task"] == task for p in summary["comparisons"])
        ],
    }


def bits_view(run: Run, summary: Json) -> dict[str, Any] | None:
    """Bits per byte per model and domain, with the change from the pivot; None without any."""
    domains = domains_of(summary)
    models = {n: m["bits_per_byte"] for n, m in summary["models"].items() if m["bits_per_byte"]}
    if not domains:
        return None
    base = models.get(PIVOT, {})
    return {
        "domains": domains,
        "rows": [
            {
                "model": name,
                "kind": kind_of(run, name),
                "cells": [
                    {
                        "value": bits.get(domain),
                        "change": bits[domain] - base[domain]
                        if name != PIVOT and domain in bits and domain in base
                        else None,
                        "best": domain in bits
                        and bits[domain] == min(b[domain] for b in models.values() if domain in b),
                    }
                    for domain in domains
                ],
            }
            for name, bits in models.items()
        ],
        "charts": [
            dot_chart(
                f"{domain}: bits per byte, lower is better",
                [
                    Dot(name, bits[domain], f"{bits[domain]:.3f}", kind_of(run, name))
                    for name, bits in models.items()
                    if domain in bits
                ],
            )
            for domain in domains
        ],
    }


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


def _difference_dot(pair: Json) -> Dot:
    low, high = (100 * edge for edge in pair["ci95"])
    label = f"{pair['b']} − {pair['a']}"
    shown = signed_points(pair["difference"])
    return Dot(label, 100 * pair["difference"], shown, outcome(pair), low, high)
