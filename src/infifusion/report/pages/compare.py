"""Runs side by side: scores, paired differences on the items they share, settings that differ."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from infifusion.evals.statistics import compare
from infifusion.report.chart import Chart
from infifusion.report.document import document, write_text
from infifusion.report.dots import dot_chart
from infifusion.report.pages.scores import difference_dots, paired
from infifusion.report.run_folder import KINDS, Json, Run, read_runs, run_as_written
from infifusion.report.summary import domains_of, mean_accuracies, tasks_of
from infifusion.report.words import duration

STYLES = ("base.css", "charts.css", "parts.css")
SCRIPTS = ("dom.js", "theme.js")
ABSENT = "(absent)"
WIDEST_LABELS = 170


def write_comparison(run_dirs: Sequence[Path], out: Path) -> Path:
    """Write the page that compares runs to the file `out`, whole or not at all; returns it.

    The first run is what the others are compared with. Raises ArtifactError when a folder is no
    run folder, a file in it is damaged, or a folder is named twice.
    """
    with run_as_written(", ".join(map(str, run_dirs))):
        view = comparison_view(read_runs(run_dirs))
        text = document("compare.html", styles=STYLES, scripts=SCRIPTS, kinds=KINDS, **view)
    return write_text(out, text)


def comparison_view(runs: dict[str, Run]) -> dict[str, Any]:
    """What the page shows; a part without figures is empty."""
    summaries = {name: run.summary for name, run in runs.items()}
    kinds = {m: run.kind_of(m) for name, run in runs.items() for m in summaries[name]["models"]}
    models = [
        m for kind in ("fused", "tuned", "pivot", "source") for m in kinds if kinds[m] == kind
    ]
    pairs = _pairs(runs, summaries, models)
    tasks, domains = _union(tasks_of, summaries), _union(domains_of, summaries)
    return {
        "names": list(runs),
        "tasks": [_side_by_side("scores", task, models, kinds, summaries) for task in tasks],
        "bits": [_side_by_side("bits_per_byte", d, models, kinds, summaries) for d in domains],
        "pairs": [pair for pair in pairs if pair["gained"] or pair["lost"]],
        "alike": _alike(pairs),
        "charts": comparison_charts(pairs),
        "settings": _differing({name: _settings(run) for name, run in runs.items()}),
        "costs": [
            (name, duration(sum(m.get("seconds") or 0.0 for m in run.manifests.values())))
            for name, run in runs.items()
        ],
    }


def comparison_charts(pairs: list[dict[str, Any]]) -> dict[str, Chart]:
    """Differences of each further run from the first, grouped by task, where there are any."""
    charts = {}
    different = [pair for pair in pairs if pair["gained"] or pair["lost"]]
    for one, other in dict.fromkeys((pair["first"], pair["second"]) for pair in different):
        here = [pair for pair in different if (pair["first"], pair["second"]) == (one, other)]
        tasks = dict.fromkeys(pair["task"] for pair in here)
        dots = difference_dots(here, tasks, named_by="model")
        charts[f"{other}-minus-{one}"] = dot_chart(
            f"{other} minus {one} in points, 95 % interval", dots, zero=True, most=WIDEST_LABELS
        )
    return charts


def _alike(pairs: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Further run -> the models whose every shared item is right or wrong in both runs alike."""
    differing = {(p["second"], p["model"]) for p in pairs if p["gained"] or p["lost"]}
    alike: dict[str, list[str]] = {}
    for second, model in dict.fromkeys((pair["second"], pair["model"]) for pair in pairs):
        if (second, model) not in differing:
            alike.setdefault(second, []).append(model)
    return alike


def _union(named: Callable[[Json], list[str]], summaries: dict[str, Json]) -> list[str]:
    return list(dict.fromkeys(name for summary in summaries.values() for name in named(summary)))


def _pairs(
    runs: dict[str, Run], summaries: dict[str, Json], models: list[str]
) -> list[dict[str, Any]]:
    """Every model that the first and another run share, and the best fused model of each where
    they are called differently, on the items that both answered: same id and same prompt."""
    first, *others = runs
    pairs = []
    for other in others:
        named = [(model, model) for model in models]
        best = _best(runs[first], summaries[first]), _best(runs[other], summaries[other])
        if best[0] and best[1] and best[0] != best[1]:
            named.append((best[0], best[1]))
        for a, b in named:
            for task in tasks_of(summaries[first]):
                left = {_key(item): item for item in runs[first].items(a, task)}
                right = {_key(item): item for item in runs[other].items(b, task)}
                shared = [key for key in left if key in right]
                if not shared:
                    continue
                result = compare([left[k] for k in shared], [right[k] for k in shared])
                model = a if a == b else f"best: {b} − {a}"
                named_by = {"first": first, "second": other, "model": model, "task": task}
                both = max(len(left), len(right))
                pairs.append({**named_by, "all": both, **paired(dict(result))})
    return pairs


def _key(item: Json) -> tuple[str, str]:
    return str(item["id"]), str(item.get("prompt"))


def _best(run: Run, summary: Json) -> str | None:
    """The fused model with the highest mean accuracy."""
    means = mean_accuracies(summary)
    fused = [name for name in means if run.kind_of(name) == "fused"]
    return max(fused, key=means.__getitem__, default=None)


def _side_by_side(
    figure: str, name: str, models: list[str], kinds: dict[str, str], summaries: dict[str, Json]
) -> dict[str, Any]:
    """One task's scores, or one domain's bits per byte: rows of models, a cell per run."""
    rows = []
    for model in models:
        cells = [s["models"].get(model, {}).get(figure, {}).get(name) for s in summaries.values()]
        if any(cell is not None for cell in cells):
            rows.append({"model": model, "kind": kinds[model], "cells": cells})
    return {"name": name, "rows": rows}


def _settings(run: Run) -> dict[str, str]:
    """Every setting and version of a run, `a.b.c` -> its value as JSON."""
    flat: dict[str, str] = {}

    def walk(value: object, path: str) -> None:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                walk(inner, f"{path}.{key}" if path else str(key))
        else:
            flat[path] = json.dumps(value, ensure_ascii=False)

    walk(run.resolved.get("recipe", {}), "")
    walk(run.resolved.get("versions", {}), "version")
    return flat


def _differing(settings: dict[str, dict[str, str]]) -> list[tuple[str, list[str]]]:
    """(setting, its value in every run) where they are not all the same."""
    keys = dict.fromkeys(key for one in settings.values() for key in one)
    rows = [(key, [one.get(key, ABSENT) for one in settings.values()]) for key in keys if key]
    return [(key, values) for key, values in rows if len(set(values)) > 1]
