"""Results of a sweep as plain JSON: outcomes, means over seeds, paired comparisons, costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from infifusion.errors import InfiFusionError
from infifusion.estimate.plan import plan_recipe
from infifusion.evals.families import (
    Counts,
    bootstrap_over_seeds,
    difference_of,
    holm,
    mean_and_error,
)
from infifusion.evals.harness import read_items
from infifusion.evals.statistics import mcnemar_exact
from infifusion.recipe.variants import shortened
from infifusion.stages.evaluate import BITS
from infifusion.stages.run import Step, steps_of
from infifusion.store.artifacts import MANIFEST
from infifusion.store.folders import RunFolder
from infifusion.store.records import Json, read_json, write_json
from infifusion.sweep.file import Sweep, SweepRun


def collect(sweep: Sweep, runs: list[SweepRun], out: Path) -> Json:
    """Write OUT/results.json and return what it holds.

    cells: one per setting, seed and arm that was scored. items: per setting, seed and task the ids
    and, per arm, a string of 0 and 1. rows: one per setting and arm, over the seeds of which both
    sides of a comparison are there. missing: what was not scored.
    """
    cells, items, missing = [], [], []
    tasks = runs[0].recipe.evaluate.tasks
    for run in runs:
        folder = RunFolder(out / run.folder)
        costs = _costs(run, folder)
        outcomes: dict[str, dict[str, str]] = {task: {} for task in tasks}
        ids: dict[str, list[str]] = {}
        for arm in run.arms:
            place = folder.evaluate(arm)
            where = {"setting": run.words, "seed": run.seed, "arm": arm}
            if not (place / MANIFEST).exists():
                missing.append(where)
                continue
            scores = read_json(place / "scores.json")
            for task in tasks:
                answers = read_items(place / f"{task}.jsonl")
                correct = {str(item["id"]): item["correct"] for item in answers}
                ids.setdefault(task, list(correct))
                outcomes[task][arm] = "".join("01"[bool(correct[name])] for name in ids[task])
            accuracy = {task: 100 * scores["scores"][task]["accuracy"] for task in tasks}
            cells.append({**where, "accuracy": accuracy, "bits": scores[BITS], **costs[arm]})
        for task in tasks:
            where = {"setting": run.words, "seed": run.seed, "task": task}
            items.append({**where, "ids": ids.get(task, []), "correct": outcomes[task]})
    settings = {run.words: shortened(run.setting) for run in runs}
    results: Json = {
        "name": sweep.name,
        "seeds": list(sweep.seeds),
        "settings": settings,
        "arms": runs[0].arms,
        "against": runs[0].against,
        "tasks": tasks,
        "cells": cells,
        "rows": _rows(list(settings), runs[0], cells, items),
        "missing": missing,
        "items": items,
    }
    write_json(out / "results.json", results)
    return results


def _rows(settings: list[str], first: SweepRun, cells: list[Json], items: list[Json]) -> list[Json]:
    """Means and comparisons; p-values are corrected over all rows of the sweep."""
    correct = {(i["setting"], i["seed"], i["task"]): i["correct"] for i in items}
    tasks = first.recipe.evaluate.tasks
    rows = []
    for setting in settings:
        of: dict[str, dict[int, Json]] = {arm: {} for arm in first.arms}
        for cell in cells:
            if cell["setting"] == setting:
                of[cell["arm"]][cell["seed"]] = cell
        for arm, by_seed in of.items():
            if not by_seed:
                continue
            row = {"setting": setting, "arm": arm, "seeds": list(by_seed)}
            row |= _means(list(by_seed.values()))
            row["against"] = {}
            for base in first.against:
                both = [seed for seed in by_seed if seed in of[base]]
                if arm != base and both:
                    row["against"][base] = _comparison(
                        [by_seed[seed] for seed in both],
                        [of[base][seed] for seed in both],
                        {task: [correct[setting, seed, task] for seed in both] for task in tasks},
                    )
            rows.append(row)
    for key in ("p_value", *(f"p_value:{task}" for task in tasks)):
        _correct(rows, key)
    return rows


def _correct(rows: list[Json], key: str) -> None:
    """Add the Holm-corrected value of one kind of test over all rows."""
    name, _, task = key.partition(":")
    tests = [pair for row in rows for pair in row["against"].values()]
    tests = [pair["tasks"][task] if task else pair for pair in tests]
    tests = [test for test in tests if test.get(name) is not None]
    for test, corrected in zip(tests, holm([test[name] for test in tests]), strict=True):
        test["p_holm"] = corrected


def _means(cells: list[Json]) -> Json:
    """Mean and standard error over seeds of every figure."""
    means: Json = {}
    for key in ("accuracy", "bits"):
        means[key] = {name: mean_and_error([c[key][name] for c in cells]) for name in cells[0][key]}
    for key in ("accuracy", "bits"):
        if cells[0][key]:
            over_all = [float(np.mean(list(cell[key].values()))) for cell in cells]
            means[f"mean_{key}"] = mean_and_error(over_all)
    for name in ("seconds", "training_seconds", "flops"):
        known = [cell[name] for cell in cells if cell[name] is not None]
        means[name] = float(np.mean(known)) if known else None
    return means


def _comparison(
    arm: list[Json], base: list[Json], correct: dict[str, list[dict[str, str]]]
) -> Json:
    """Arm against base, paired by seed and item; accuracies in points, bits in bits per byte."""
    a, b = base[0]["arm"], arm[0]["arm"]
    compared: Json = {"tasks": {}, "p_value": None}
    if base[0]["bits"]:
        differences = [
            {domain: one["bits"][domain] - other["bits"][domain] for domain in one["bits"]}
            for one, other in zip(arm, base, strict=True)
        ]
        means = [float(np.mean(list(of_seed.values()))) for of_seed in differences]
        compared["bits"] = mean_and_error(means)
        compared["bits_by_domain"] = {
            domain: mean_and_error([of_seed[domain] for of_seed in differences])
            for domain in base[0]["bits"]
        }
    if not correct:
        return compared
    counts = {
        task: [_counts(outcomes[a], outcomes[b]) for outcomes in seeds]
        for task, seeds in correct.items()
    }
    for task, seeds in counts.items():
        compared["tasks"][task] = _test([[one] for one in seeds])
    by_seed = [list(one) for one in zip(*counts.values(), strict=True)]
    return {**compared, **_test(by_seed)}


def _counts(a: str, b: str) -> Counts:
    pairs = list(zip(a, b, strict=True))
    return pairs.count(("0", "1")), pairs.count(("1", "0")), len(pairs)


def _test(seeds: list[list[Counts]]) -> Json:
    gained = sum(g for tasks in seeds for g, _, _ in tasks)
    lost = sum(k for tasks in seeds for _, k, _ in tasks)
    low, high = bootstrap_over_seeds(seeds, generator=np.random.default_rng(0))
    _, error = mean_and_error([100 * difference_of([tasks]) for tasks in seeds])
    return {
        "difference": 100 * difference_of(seeds),
        "error": error,
        "by_seed": [100 * difference_of([tasks]) for tasks in seeds],
        "ci95": [100 * low, 100 * high],
        "p_value": mcnemar_exact(gained, lost),
        "gained": gained,
        "lost": lost,
        "n": sum(n for tasks in seeds for _, _, n in tasks),
    }


def _costs(run: SweepRun, folder: RunFolder) -> dict[str, Json]:
    """Per arm: seconds and FLOPs of all that it is made of, and seconds of its training runs.

    Seconds are those that the stages took, other work beside them or not; FLOPs are the planner's
    count. None where a step is not done or cannot be planned.
    """
    steps = {step.key: step for step in steps_of(run.recipe, folder)}
    try:
        planned = plan_recipe(
            run.recipe,
            run_dir=folder.root,
            device="cpu",
            count=1,
            nodes=1,
            given=None,
            shapes=[],
        )
    except InfiFusionError:
        planned = {"rows": []}
    flops = {f"{row['stage']}/{row['name']}": row["flops"] for row in planned["rows"]}
    costs = {}
    for arm in run.arms:
        made_of = _made_of(steps, f"evaluate/{arm}")
        taught = [step for step in made_of if step.stage in ("tune", "teach", "distill")]
        trained = [step for step in made_of if step.stage == "distill"]
        costs[arm] = {
            "seconds": _sum([_seconds(step) for step in made_of]),
            "training_seconds": _sum([_seconds(step) for step in trained]),
            "flops": _sum([flops.get(step.key) for step in taught]),
        }
    return costs


def _made_of(steps: dict[str, Step], key: str) -> list[Step]:
    """Every step that this one needs, itself and the shared preparation left out."""
    wanted, needed = [key], {}
    while wanted:
        step = steps[wanted.pop()]
        if step.key not in needed:
            needed[step.key] = step
            wanted += step.needs
    return [step for step in needed.values() if step.stage not in ("prepare", "evaluate")]


def _seconds(step: Step) -> float | None:
    path = step.place / MANIFEST
    return read_json(path)["seconds"] if path.exists() else None


def _sum(values: list[Any]) -> float | None:
    return None if any(value is None for value in values) else float(sum(values))
