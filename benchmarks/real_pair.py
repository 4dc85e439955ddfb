"""Right labels on a real pair of models: does a source help, and does one that is tuned first?

    .venv/bin/python benchmarks/real_pair.py --models MODELS --data DATA --task gsm8k

MODELS holds Hugging Face folders: smollm2 (SmolLM2-135M-Instruct) and qwen05
(Qwen2.5-Coder-0.5B-Instruct), or what --pivot and --source name; DATA gsm8k_train.jsonl or
mbpp.jsonl. Short problems are drawn with the number of the task as seed, 240 to train on and 120
held out, none of them an item of a test set (of MBPP ids 511 to 974). Arms, each with the same
steps: `sft` on the labels; `plain` towards the source; `gated` towards it by `gate: pivot`; `tuned`
and `tuned0` towards a copy of the source that was tuned on the same 240 examples (LoRA, one epoch),
with half a label and with none. Bits per byte of the held-out answers, and the difference from
`sft` with a 95 % interval (bootstrap over items, 2,000 draws).

On two cores --arms sft,tuned takes about an hour for one task and seed.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from infifusion.commands.cli import app

TRAINED, HELD_OUT = 240, 120
LORA = {"lora": {"r": 16}, "num_train_epochs": 1}
ARMS: dict[str, dict[str, Any]] = {
    "sft": {},
    "plain": {"target": "plain"},
    "gated": {"target": "plain", "gate": "pivot", "gold_weight": 0.0},
    "tuned": {"target": "tuned"},
    "tuned0": {"target": "tuned", "gold_weight": 0.0},
}


def gsm8k(data: Path) -> list[dict[str, str]]:
    """Short problems of the training file."""
    lines = (data / "gsm8k_train.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    random.Random(0).shuffle(rows)
    short = [r for r in rows if len(r["question"]) < 210 and len(r["answer"]) < 260]
    return [{"prompt": r["question"], "response": r["answer"]} for r in short]


def mbpp(data: Path) -> list[dict[str, str]]:
    """Short problems outside of the test set, with their tests in the prompt."""
    lines = (data / "mbpp.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["task_id"] >= 511]
    random.Random(0).shuffle(rows)
    asked = "{text}\nYour code should pass these tests:\n{tests}"
    made = [
        {
            "prompt": asked.format(text=r["text"], tests="\n".join(r["test_list"])),
            "response": r["code"].replace("\r\n", "\n"),
        }
        for r in rows
    ]
    return [r for r in made if len(r["prompt"]) < 420 and len(r["response"]) < 420]


TASKS: dict[str, Callable[[Path], list[dict[str, str]]]] = {"gsm8k": gsm8k, "mbpp": mbpp}


def recipe_of(args: argparse.Namespace, arms: list[str]) -> dict[str, Any]:
    """The recipe; every part that no arm reads is left out."""
    models = args.models.resolve()
    targets = {target for arm in arms if (target := ARMS[arm].get("target"))}
    source = {"model": str(models / args.source)}
    sources = {"plain": source, "tuned": {**source, "tune": LORA}}
    used = [name for name in sources if name in targets] or ["plain"]
    return {
        "name": f"real-{args.task}",
        "seed": args.seed,
        "pivot": {"model": str(models / args.pivot)},
        "sources": {name: sources[name] for name in used},
        "data": {
            "train": [{"path": "train.jsonl", "domain": args.task}],
            "held_out": [{"path": "held_out.jsonl", "domain": args.task}],
            "max_length": 512,
        },
        "teach": {"top_k": 10},
        "fuse": {name: {"sources": [name], "gate": "none"} for name in used if name in targets},
        "training": {
            "learning_rate": args.learning_rate,
            "max_steps": args.steps,
            "per_device_train_batch_size": 8,
            "warmup_steps": 5,
            "logging_steps": max(1, args.steps // 10),
        },
        "distill": {arm: ARMS[arm] for arm in arms},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--pivot", default="smollm2")
    parser.add_argument("--source", default="qwen05")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/real_pair"))
    args = parser.parse_args()
    arms = args.arms.split(",")
    folder = args.out / f"{args.task}-{args.source}-{args.steps}-{args.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    rows = TASKS[args.task](args.data)[: TRAINED + HELD_OUT]
    for name, some in (("train", rows[:TRAINED]), ("held_out", rows[TRAINED:])):
        text = "".join(json.dumps(row) + "\n" for row in some)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(recipe_of(args, arms), sort_keys=False), encoding="utf-8")
    run = folder / "run"
    app(["run", str(recipe), "--run-dir", str(run)], standalone_mode=False)
    scored = sorted(run.glob("evaluate/*/held_out.json"))
    read = {path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in scored}
    base = read["sft"]
    draws = np.random.default_rng(0).integers(0, len(base["nats"]), (2000, len(base["nats"])))
    for name, found in read.items():
        nats, bytes_N = np.asarray(found["nats"]), np.asarray(found["bytes"])
        bits = nats.sum() / np.log(2) / bytes_N.sum()
        of_sft = np.asarray(base["nats"]) / np.asarray(base["bytes"]).sum()
        ratios = (nats / bytes_N.sum())[draws].sum(1) / of_sft[draws].sum(1) - 1
        low, high = 100 * np.percentile(ratios, [2.5, 97.5])
        change = 100 * ((nats / bytes_N.sum()).sum() / of_sft.sum() - 1)
        print(f"{name:16} {bits:.4f} bits per byte, {change:+.2f} % ({low:+.2f} to {high:+.2f})")


if __name__ == "__main__":
    main()
