"""What a sweep found: every outcome, means over seeds, paired comparisons, costs, as plain JSON."""

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
from infifusion.sweep.file import Sweep, World


def collect(sweep: Sweep, worlds: list[World], out: Path) -> Json:
    """Write OUT/results.json and return what it holds.

    cells: one per setting, seed and arm that was scored. items: per setting, seed and task the ids
    and, per arm, a string of 0 and 1. rows: one per setting and arm, over the seeds of which both
    sides of a comparison are there. missing: what was not scored.
    """
    cells, items, missing = [], [], []
    for world in worlds:
        folder = RunFolder(out / world.folder)
        costs = _costs(world, folder)
        tasks = world.recipe.evaluate.tasks
        outcomes: dict[str, dict[str, str]] = {task: {} for task in tasks}
        ids: dict[str, list[str]] = {}
        for arm in world.arms:
            place = folder.evaluate(arm)
            where = {"setting": world.words, "seed": world.seed, "arm": arm}
            if not (place / MANIFEST).exists():
                missing.append(where)
                continue
            scores = read_json(place / "scores.json")
            for task in tasks:
                found = {
                    str(item["id"]): item["correct"] for item in read_items(place / f"{task}.jsonl")
                }
                ids.setdefault(task, list(found))
                outcomes[task][arm] = "".join("01"[bool(found[name])] for name in ids[task])
            accuracy = {task: 100 * scores["scores"][task]["accuracy"] for task in tasks}
            cells.append({**where, "accuracy": accuracy, "bits": scores[BITS], **costs[arm]})
        items += [
            {
                "setting": world.words,
                "seed": world.seed,
                "task": task,
                "ids": ids.get(task, []),
                "correct": outcomes[task],
            }
            for task in tasks
        ]
    settings = list(dict.fromkeys(world.words for world in worlds))
    results: Json = {
        "name": sweep.name,
        "seeds": list(sweep.seeds),
        "settings": {world.words: shortened(world.setting) for world in worlds},
        "arms": worlds[0].arms,
        "against": worlds[0].against,
        "tasks": worlds[0].recipe.evaluate.tasks,
        "cells": cells,
        "rows": _rows(settings, worlds[0], cells, items),
        "missing": missing,
        "items": items,
    }
    write_json(out / "results.json", results)
    return results


def _rows(settings: list[str], first: World, cells: list[Json], items: list[Json]) -> list[Json]:
    """Means and comparisons; p-values are corrected over all rows of the sweep."""
    correct = {(i["setting"], i["seed"], i["task"]): i["correct"] for i in items}
    rows = []
    for setting in settings:
        here = {arm: [c for c in cells if (c["setting"], c["arm"]) == (setting, arm)]
                for arm in first.arms}  # fmt: skip
        for arm, found in here.items():
            if not found:
                continue
            row = {"setting": setting, "arm": arm, "seeds": [c["seed"] for c in found]}
            row |= _means(found)
            row["against"] = {}
            for base in first.against:
                both = [c["seed"] for c in found if c["seed"] in [b["seed"] for b in here[base]]]
                if arm != base and both:
                    row["against"][base] = _comparison(
                        [_of_seed(found, seed) for seed in both],
                        [_of_seed(here[base], seed) for seed in both],
                        {task: [correct[setting, seed, task] for seed in both]
                         for task in found[0]["accuracy"]},
                    )  # fmt: skip
            rows.append(row)
    for key in ("p_value", *(f"p_value:{task}" for task in first.recipe.evaluate.tasks)):
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


def _of_seed(cells: list[Json], seed: int) -> Json:
    return next(cell for cell in cells if cell["seed"] == seed)


def _means(found: list[Json]) -> Json:
    """Mean and standard error over seeds of every figure."""

    def over(key: str) -> Json:
        return {name: mean_and_error([c[key][name] for c in found]) for name in found[0][key]}

    means: Json = {"accuracy": over("accuracy"), "bits": over("bits")}
    for name, key in (("mean_accuracy", "accuracy"), ("mean_bits", "bits")):
        if found[0][key]:
            means[name] = mean_and_error([float(np.mean(list(c[key].values()))) for c in found])
    for name in ("seconds", "training_seconds", "flops"):
        known = [cell[name] for cell in found if cell[name] is not None]
        means[name] = float(np.mean(known)) if known else None
    return means


def _comparison(
    arm: list[Json], base: list[Json], correct: dict[str, list[dict[str, str]]]
) -> Json:
    """Arm against base, paired by seed and item; accuracies in points, bits in bits per byte."""
    a, b = base[0]["arm"], arm[0]["arm"]
    found: Json = {"tasks": {}, "p_value": None}
    if base[0]["bits"]:
        bits = [
            float(np.mean([one["bits"][d] - other["bits"][d] for d in one["bits"]]))
            for one, other in zip(arm, base, strict=True)
        ]
        found["bits"] = mean_and_error(bits)
        found["bits_by_domain"] = {
            d: mean_and_error(
                [one["bits"][d] - other["bits"][d] for one, other in zip(arm, base, strict=True)]
            )
            for d in base[0]["bits"]
        }
    if not correct:
        return found
    counts = {
        task: [_counts(outcomes[a], outcomes[b]) for outcomes in seeds]
        for task, seeds in correct.items()
    }
    for task, seeds in counts.items():
        found["tasks"][task] = _test([[one] for one in seeds])
    by_seed = [list(one) for one in zip(*counts.values(), strict=True)]
    return {**found, **_test(by_seed)}


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


def _costs(world: World, folder: RunFolder) -> dict[str, Json]:
    """Per arm: seconds and FLOPs of all that it is made of, and seconds of its training runs.

    Seconds are those that the stages took, other work beside them or not; FLOPs are the planner's
    count. None where a step is not done or cannot be planned.
    """
    steps = {step.key: step for step in steps_of(world.recipe, folder)}
    try:
        planned = plan_recipe(
            world.recipe,
            run_dir=folder.root, device="cpu", count=1, nodes=1, given=None, shapes=[],
        )  # fmt: skip
    except InfiFusionError:
        planned = {"rows": []}
    flops = {f"{row['stage']}/{row['name']}": row["flops"] for row in planned["rows"]}
    found = {}
    for arm in world.arms:
        made_of = _made_of(steps, f"evaluate/{arm}")
        seconds = [_seconds(step) for step in made_of]
        training = [_seconds(step) for step in made_of if step.stage == "distill"]
        counted = [flops.get(step.key) for step in made_of if step.stage in ("teach", "distill")]
        found[arm] = {
            "seconds": _sum(seconds),
            "training_seconds": _sum(training),
            "flops": _sum(counted),
        }
    return found


def _made_of(steps: dict[str, Step], key: str) -> list[Step]:
    """Every step that this one needs, itself and the shared preparation left out."""
    wanted, found = [key], {}
    while wanted:
        step = steps[wanted.pop()]
        if step.key not in found:
            found[step.key] = step
            wanted += step.needs
    left_out = ("prepare", "evaluate")
    return [step for step in found.values() if step.stage not in left_out]


def _seconds(step: Step) -> float | None:
    path = step.place / MANIFEST
    return read_json(path)["seconds"] if path.exists() else None


def _sum(values: list[Any]) -> float | None:
    return None if any(value is None for value in values) else float(sum(values))
