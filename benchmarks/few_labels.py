"""Few labels and many prompts: are answers that the sources write worth training on?

    .venv/bin/python benchmarks/few_labels.py [--seeds 0,1,2] [--work runs/few_labels]
        [--json benchmarks/out/few_labels.json]

The demo's suite and training settings (src/infifusion/demo/recipe.yaml) with other data: 60
problems per domain with right labels and 600 prompts per domain without. Every arm fine-tunes the
same pivot, for the same number of steps but for sft_short; they differ in what they train on:

    sft       the 60 labelled problems
    sft_short the same for 160 steps only: 60 problems are soon learnt by heart
    entropy   and the answers of the source with the lowest entropy per byte
    random    and the answers of a source drawn by lot, with the same answers to draw from
    truth     and the true labels of the 600 prompts: what perfect answers would give
    unified   as entropy, distilled from the sources fused by uncertainty on the same examples

Prints mean and standard error over seeds and writes JSON. `--show` prints the table of finished
results again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import yaml

from infifusion.choose.candidates import Candidate, Choice, Judges
from infifusion.data.store import read_lines, write_lines
from infifusion.demo.domains import DOMAINS, problems
from infifusion.demo.tasks import TASKS
from infifusion.evals.scoring import Output, score_outputs
from infifusion.evals.statistics import compare
from infifusion.recipe import load_recipe
from infifusion.setup.suite import as_record, make_suite
from infifusion.stages.run import run_recipe
from infifusion.store.records import read_json, write_json
from infifusion.strict import Strict
from infifusion.types import Prompt

LABELLED, UNLABELLED = 60, 600
SHORT = 160
ARMS = ("pivot", "sft", "sft_short", "entropy", "random", "truth", "unified")


class Params(Strict):
    """Parameters of `random_source`."""

    seed: int = 0


def random_source(
    prompt: Prompt, candidates: Sequence[Candidate], params: Params, judges: Judges
) -> Choice:
    """The control: any of the answers, drawn by the prompt's name."""
    winner = random.Random(f"{params.seed}:{prompt.id}").randrange(len(candidates))
    return Choice(winner, "", (None,) * len(candidates))


def write_data(folder: Path, seed: int) -> None:
    """labelled/, prompts/ and truth/ by domain; keys are used evenly before any repeats."""
    for domain in DOMAINS:
        made = problems(domain, "train", LABELLED + UNLABELLED, seed=30_000 + seed)
        records = [as_record(problem, number) for number, problem in enumerate(made)]
        labelled, others = records[:LABELLED], records[LABELLED:]
        write_lines(folder / "labelled" / f"{domain}.jsonl", labelled)
        write_lines(folder / "truth" / f"{domain}.jsonl", others)
        asked = [{"id": record["id"], "prompt": record["prompt"]} for record in others]
        write_lines(folder / "prompts" / f"{domain}.jsonl", asked)


def recipe_of(arm: str, suite: Path, seed: int) -> Path:
    """suite/recipe-ARM.yaml: the demo's models, training and tasks; the arm's data."""
    text = files("infifusion.demo").joinpath("recipe.yaml").read_text(encoding="utf-8")
    values: dict[str, Any] = yaml.safe_load(text)
    sets = ["labelled", *(["truth"] if arm == "truth" else [])]
    train = [
        {"path": f"data/{name}/{domain}.jsonl", "domain": domain}
        for name in sets
        for domain in DOMAINS
    ]
    values |= {"name": f"few-{arm}", "seed": seed, "fuse": {}, "merge": {}, "distill": {"sft": {}}}
    values["data"]["train"] = train
    values["evaluate"]["models"] = ["sft"]
    if arm == "sft":
        values["distill"]["sft_short"] = {"training": {"max_steps": SHORT}}
        values["evaluate"]["models"] = ["pivot", "sft", "sft_short"]
    if arm in ("entropy", "random"):
        values["write_responses"] = {
            "prompts": [
                {"path": f"data/prompts/{domain}.jsonl", "domain": domain} for domain in DOMAINS
            ],
            "max_new_tokens": 64,
            "batch_size": 300,
            "shard_prompts": 600,
        }
    if arm == "random":
        values["write_responses"] |= {
            "choose": "few_labels:random_source",
            "params": {"seed": seed},
        }
    if arm == "entropy":
        values["fuse"] = {"unified": {"function": "uncertainty", "params": {"kappa": 0.1}}}
        values["distill"]["unified"] = {"target": "unified", "loss": "kl", "gold_weight": 0.1}
        values["evaluate"]["models"] = ["sft", "unified"]
    path = suite / f"recipe-{arm}.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path


def run_seed(work: Path, seed: int) -> dict[str, Any]:
    """All arms of one seed: accuracies, bits per byte, who won what, how much of it was right."""
    suite = work / "suite"
    make_suite(suite, seed=seed)
    write_data(suite / "data", seed)
    found: dict[str, Any] = {"accuracy": {}, "bits_per_byte": {}, "items": {}}
    for arm in ("sft", "entropy", "random", "truth"):
        out = work / arm
        if arm == "random" and not (out / "respond").exists():
            # The same answers to draw from; the run checks that they are this recipe's.
            shutil.copytree(work / "entropy" / "respond", out / "respond")
        recipe = recipe_of(arm, suite, seed)
        run_recipe(
            load_recipe(recipe), out, until="evaluate", recipe_file=recipe, command="few_labels.py"
        )
        for model in ("pivot", "sft", "sft_short", "unified"):
            name = arm if model == "sft" else model
            scores = out / "evaluate" / model / "scores.json"
            if scores.exists():
                result = read_json(scores)
                found["accuracy"][name] = {
                    task.removeprefix("demo_"): 100 * score["accuracy"]
                    for task, score in result["scores"].items()
                }
                found["bits_per_byte"][name] = result["bits_per_byte"]
                found["items"][name] = str(out / "evaluate" / model)
    items = found.pop("items")
    found["entropy_against_sft"] = {
        domain: {
            key: compare(
                *(
                    list(read_lines(Path(items[arm]) / f"demo_{domain}.jsonl"))
                    for arm in ("sft", "entropy")
                )
            )[key]
            for key in ("difference", "p_value")
        }
        for domain in DOMAINS
    }
    found["answers"] = {arm: answers_of(work / arm, suite) for arm in ("entropy", "random")}
    return found


def answers_of(out: Path, suite: Path) -> dict[str, Any]:
    """Per domain: share of prompts answered, won by the domain's own source, and right."""
    told = {}
    lines = list(read_lines(out / "choose" / "responses.jsonl"))
    for domain in DOMAINS:
        of = {
            f"{domain}/{r['id']}": r for r in read_lines(suite / "data/truth" / f"{domain}.jsonl")
        }
        mine = [line for line in lines if line["domain"] == domain]
        kept = [line for line in mine if line["winner"]]
        judged = score_outputs(
            TASKS[f"demo_{domain}"],
            [of[line["id"].partition("#")[0]] for line in kept],
            [Output(line["response"]) for line in kept],
        )
        told[domain] = {
            "prompts": len(mine),
            "kept": len(kept),
            "by_own_source": sum(line["winner"] == domain for line in kept),
            "right": sum(item["correct"] for item in judged),
        }
    return told


def table(results: dict[str, Any]) -> str:
    """Markdown: accuracy and bits by arm and domain, gain over SFT, quality of the answers."""
    seeds = list(results.values())
    lines = ["| trained on | word | sym | code | mean | mean minus sft | bits per byte |"]
    lines.append("|---|---:|---:|---:|---:|---:|---:|")
    for arm in ARMS:
        cells = [spread([seed["accuracy"][arm][domain] for seed in seeds]) for domain in DOMAINS]
        mean, sft = (
            [statistics.mean(seed["accuracy"][name].values()) for seed in seeds]
            for name in (arm, "sft")
        )
        gain = spread([a - b for a, b in zip(mean, sft, strict=True)], sign=True)
        bits = spread(
            [statistics.mean(seed["bits_per_byte"][arm].values()) for seed in seeds], digits=3
        )
        gain = "" if arm == "sft" else gain
        lines.append(f"| {arm} | {' | '.join(cells)} | {spread(mean)} | {gain} | {bits} |")
    lines += [
        "",
        "| answers chosen by | domain | kept, % | by the domain's source, % | right, % |",
    ]
    lines.append("|---|---|---:|---:|---:|")
    for arm in ("entropy", "random"):
        for domain in DOMAINS:
            told = [seed["answers"][arm][domain] for seed in seeds]
            kept = spread([100 * one["kept"] / one["prompts"] for one in told])
            own, right = (
                spread([100 * one[key] / one["kept"] for one in told])
                for key in ("by_own_source", "right")
            )
            lines.append(f"| {arm} | {domain} | {kept} | {own} | {right} |")
    lines.append("")
    for name, seed in results.items():
        words = ", ".join(
            f"{domain} {100 * pair['difference']:+.1f} (p {pair['p_value']:.2g})"
            for domain, pair in seed["entropy_against_sft"].items()
        )
        lines.append(f"seed {name}, entropy minus sft: {words}")
    return "\n".join(lines)


def spread(values: list[float], *, digits: int = 1, sign: bool = False) -> str:
    """mean ± standard error."""
    mean = f"{statistics.mean(values):{'+' if sign else ''}.{digits}f}"
    if len(values) < 2:
        return mean
    return f"{mean} ± {statistics.stdev(values) / len(values) ** 0.5:.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--work", type=Path, default=Path("runs/few_labels"))
    parser.add_argument("--json", type=Path, default=Path("benchmarks/out/few_labels.json"))
    parser.add_argument("--show", action="store_true", help="print finished results, run nothing")
    arguments = parser.parse_args()
    results: dict[str, Any] = {}
    if arguments.show:
        results = json.loads(arguments.json.read_text(encoding="utf-8"))
    else:
        for seed in [int(one) for one in arguments.seeds.split(",")]:
            results[str(seed)] = run_seed(arguments.work / f"seed{seed}", seed)
            write_json(arguments.json, results)
    print(table(results))


if __name__ == "__main__":
    main()
