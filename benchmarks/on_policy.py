"""Few labels and many prompts: does the pivot learn more from its own text than from given text?

    python benchmarks/on_policy.py [--seeds 0,1,2] [--steps 700] [--work runs/on_policy]
        [--json benchmarks/out/on_policy.json]

The demo's suite with 60 labelled problems and 600 prompts without answers per domain. Every arm
starts from the same pivot and may spend the FLOPs of `off` (infifusion plan; teacher passes and
generation counted, evaluation not):

    off       distilled from the fused sources on the labelled problems and on the answers of the
              source with the lowest entropy per byte
    written   fine-tuned on these answers alone (written: only)
    own       a quarter of the steps as `off`, then on-policy: the same target corrects the pivot's
              answers to the same prompts; reverse KL
    gradient  the same by the policy gradient; gradient1.25 and gradient1.5 extrapolate

Prints accuracy by domain, and the exact paired test of `own` against `off` over all problems.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import yaml
from few_labels import spread, write_data

from infifusion.data.store import read_lines
from infifusion.demo.domains import DOMAINS
from infifusion.estimate.plan import plan_recipe
from infifusion.evals.statistics import compare
from infifusion.recipe import Recipe, load_recipe
from infifusion.setup.suite import make_suite
from infifusion.stages.run import run_recipe
from infifusion.store.records import read_json, write_json

FIRST = 0.25
"""Share of the steps that the on-policy arms spend on given text."""
EXTRAPOLATED = {"gradient": 1.0, "gradient1.25": 1.25, "gradient1.5": 1.5}


def recipe_of(suite: Path, seed: int, arms: list[str], steps: dict[str, int]) -> Path:
    """suite/recipe-own.yaml: the demo's models, training and tasks, and the arms."""
    text = files("infifusion.demo").joinpath("recipe.yaml").read_text(encoding="utf-8")
    values: dict[str, Any] = yaml.safe_load(text)
    asked = [{"path": f"data/prompts/{domain}.jsonl", "domain": domain} for domain in DOMAINS]
    given = [{"path": f"data/labelled/{domain}.jsonl", "domain": domain} for domain in DOMAINS]
    values |= {"name": "on-policy", "seed": seed, "merge": {}}
    values["data"] |= {"train": given, "prompts": asked}
    values["write_responses"] = {"prompts": asked, "max_new_tokens": 64, "batch_size": 300}
    values["fuse"] = {"unified": {"function": "uncertainty", "params": {"kappa": 0.1}}}
    fused = {"target": "unified", "gold_weight": 0.1}
    runs: dict[str, Any] = {
        "off": fused,
        "written": {"written": "only"},
        "first": fused,
    }
    own = {"share": 1, "max_new_tokens": 64, "batch_size": 48, "round_steps": 2}
    follow = {"target": "unified", "start": "first", "loss": "reverse_kl"}
    runs["own"] = {**follow, "on_policy": own}
    for name, extrapolate in EXTRAPOLATED.items():
        form = {"form": "policy_gradient", "extrapolate": extrapolate}
        runs[name] = {**follow, "on_policy": {**own, **form}}
    wanted = [name for name in runs if name in (*arms, "first")]
    values["distill"] = {
        name: {**runs[name], "training": {"max_steps": steps[name]}} for name in wanted
    }
    values["evaluate"]["models"] = ["pivot", *wanted]
    path = suite / "recipe-own.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path


def flops_of(recipe: Recipe, out: Path) -> dict[str, float]:
    """Planned FLOPs of each training run, and of what comes before them."""
    planned = plan_recipe(
        recipe, run_dir=out, device="cpu", count=1, nodes=1, given=None, shapes=[], settled=True
    )
    found = {row["name"]: row["flops"] for row in planned["rows"] if row["stage"] == "distill"}
    before = ("teach", "fuse")
    found["teach"] = sum(row["flops"] for row in planned["rows"] if row["stage"] in before)
    return found


def steps_of(suite: Path, out: Path, seed: int, arms: list[str], total: int) -> dict[str, int]:
    """Steps of each run, so that all arms spend what `off` does with `total` steps."""
    every = dict.fromkeys(("off", "written", "first", "own", *EXTRAPOLATED), 100)
    each = flops_of(load_recipe(recipe_of(suite, seed, list(every), every)), out)
    budget = each["teach"] + each["off"] * total / 100
    first = round(FIRST * total)
    left = budget - each["teach"] - each["first"] * first / 100
    steps = {"off": total, "first": first, "written": round(100 * budget / each["written"])}
    return steps | {name: round(100 * left / each[name]) for name in ("own", *EXTRAPOLATED)}


def run_seed(work: Path, seed: int, arms: list[str], total: int) -> dict[str, Any]:
    """Accuracy of every arm by domain, and the paired test."""
    suite, out = work / "suite", work / "out"
    make_suite(suite, seed=seed)
    write_data(suite / "data", seed)
    kept = work / "steps.json"
    if not kept.exists():
        every = dict.fromkeys(("off", "written", "first", "own", *EXTRAPOLATED), 100)
        recipe = recipe_of(suite, seed, arms, every)
        run_recipe(load_recipe(recipe), out, until="prepare", recipe_file=recipe, command="")
        write_json(kept, {"steps": steps_of(suite, out, seed, arms, total)})
    steps = read_json(kept)["steps"]
    recipe = recipe_of(suite, seed, arms, steps)
    run_recipe(load_recipe(recipe), out, until="evaluate", recipe_file=recipe, command="")
    found: dict[str, Any] = {"steps": steps, "accuracy": {}, "seconds": {}}
    items = {}
    for model in ("pivot", "first", *arms):
        scores = read_json(out / "evaluate" / model / "scores.json")["scores"]
        found["accuracy"][model] = {
            task.removeprefix("demo_"): 100 * one["accuracy"] for task, one in scores.items()
        }
        items[model] = [
            {**item, "id": f"{domain}/{n}"}
            for domain in DOMAINS
            for n, item in enumerate(read_lines(out / "evaluate" / model / f"demo_{domain}.jsonl"))
        ]
        manifest = out / "distill" / model / "manifest.json"
        found["seconds"][model] = read_json(manifest)["seconds"] if manifest.exists() else 0
    for arm in arms:
        if arm != "off" and "off" in arms:
            pair = compare(items["off"], items[arm])
            found[f"{arm}_against_off"] = {key: pair[key] for key in ("difference", "p_value")}
    return found


def table(results: dict[str, Any]) -> str:
    """Markdown: accuracy by arm and domain, mean and standard error over seeds."""
    seeds = list(results.values())
    lines = [
        "| arm | word | sym | code | mean | mean minus off |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for arm in seeds[0]["accuracy"]:
        cells = [spread([seed["accuracy"][arm][domain] for seed in seeds]) for domain in DOMAINS]
        mean, off = (
            [statistics.mean(seed["accuracy"][name].values()) for seed in seeds]
            for name in (arm, "off")
        )
        gain = spread([a - b for a, b in zip(mean, off, strict=True)], sign=True)
        lines.append(f"| {arm} | {' | '.join(cells)} | {spread(mean)} | {gain} |")
    for name, seed in results.items():
        for key, pair in seed.items():
            if key.endswith("_against_off"):
                said = f"{100 * pair['difference']:+.1f} points (p {pair['p_value']:.2g})"
                lines.append(f"seed {name}, {key.replace('_', ' ')}: {said}")
        lines.append(f"seed {name}, steps: {seed['steps']}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--arms", default="off,written,own,gradient,gradient1.25,gradient1.5")
    parser.add_argument("--work", type=Path, default=Path("runs/on_policy"))
    parser.add_argument("--json", type=Path, default=Path("benchmarks/out/on_policy.json"))
    asked = parser.parse_args()
    results: dict[str, Any] = {}
    for seed in [int(one) for one in asked.seeds.split(",")]:
        made = run_seed(asked.work / f"seed{seed}", seed, asked.arms.split(","), asked.steps)
        results[str(seed)] = made
        write_json(asked.json, results)
    print(table(results))
    print(json.dumps({name: seed["seconds"] for name, seed in results.items()}))


if __name__ == "__main__":
    main()
