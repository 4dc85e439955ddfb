"""What lm-evaluation-harness itself prints for outputs that `infifusion evaluate` kept.

    infifusion evaluate MODEL --tasks gsm8k,humaneval --data DATA --limit 200 --out OUT
    .venv/bin/python benchmarks/lm_eval_figures.py OUT --data DATA

lm-eval's own task files, filters and metrics are run on a "model" that answers with the kept
outputs, and every figure and standard error is compared with the one that stands beside our
headline (docs/scores.md). Of several samples the first counts. The metric code_eval, which lm-eval
loads from the hub, is written here as Hugging Face describes it. Generated code runs in this script
**without a sandbox**: use a machine that may be harmed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from infifusion.evals.harness import read_items
from infifusion.evals.lm_figures import tasks_folder
from infifusion.evals.scoring import item_id, summarise
from infifusion.evals.tasks import TASKS

THEIR_FILES = {
    "gsm8k": ["gsm8k/gsm8k.yaml"],
    "math500": ["minerva_math/minerva_math500.yaml"],
    "humaneval": ["humaneval/humaneval.yaml", "humaneval/humaneval_instruct.yaml"],
    "mbpp": ["mbpp/mbpp.yaml", "mbpp/mbpp_instruct.yaml"],
    "mbpp_plus": ["mbpp/mbpp_plus.yaml", "mbpp/mbpp_plus_instruct.yaml"],
}


class CodeEval:
    """Hugging Face's metric code_eval, which is loaded from the hub: every candidate runs with its
    test behind it, in a process, for 3 seconds at most."""

    def compute(
        self, *, references: Sequence[str], predictions: Sequence[Sequence[str]], k: Sequence[int]
    ) -> tuple[dict[str, float], None]:
        if list(k) != [1]:
            raise ValueError(f"k is {list(k)}; only [1] is asked for by these tasks.")
        shares = []
        for test, candidates in zip(references, predictions, strict=True):
            passed = [self._passes(f"{candidate}\n{test}") for candidate in candidates]
            shares.append(sum(passed) / len(passed))
        return {"pass@1": sum(shares) / len(shares)}, None

    def _passes(self, program: str) -> bool:
        text = f"exec({program!r}, {{}})"
        command = [sys.executable, "-c", text + "\nprint('ran to its end')"]
        with tempfile.TemporaryDirectory() as folder:
            try:
                done = subprocess.run(
                    command, capture_output=True, timeout=3, input=b"", cwd=folder
                )
            except subprocess.TimeoutExpired:
                return False
        return done.returncode == 0 and done.stdout.endswith(b"ran to its end\n")


def what_lm_eval_prints(
    name: str, docs: Sequence[dict[str, Any]], outputs: Sequence[str], folder: Path
) -> dict[str, float | str]:
    """Metric and filter -> figure, by lm-eval's own tasks on a model that answers with the outputs.

    folder: an empty folder for the task files.
    """
    import evaluate as metrics
    from lm_eval.api.model import LM
    from lm_eval.evaluator import evaluate
    from lm_eval.tasks import TaskManager

    class Answers(LM):
        def __init__(self) -> None:
            super().__init__()
            self.answers = iter(outputs)

        def generate_until(self, requests: list[Any]) -> list[str]:
            return [next(self.answers) for _ in requests]

        def loglikelihood(self, requests: Any) -> Any: ...
        def loglikelihood_rolling(self, requests: Any) -> Any: ...

    data = folder / "docs.jsonl"
    data.write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    found: dict[str, float | str] = {}
    for number, file in enumerate(THEIR_FILES[name]):
        place = folder / f"{number}"
        place.mkdir()
        overlay = {
            "include": str(tasks_folder() / file),
            "task": f"their_{number}",
            "dataset_path": "json",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": {"test": str(data), "train": str(data)}},
            "test_split": "test",
            "num_fewshot": 0,
            "fewshot_config": {"sampler": "first_n"},
            "unsafe_code": False,
        }
        (place / "task.yaml").write_text(json.dumps(overlay))
        with mock.patch.object(metrics, "load", lambda *_: CodeEval()):
            manager = TaskManager(include_path=str(place), include_defaults=False)
            tasks = dict(manager.load([f"their_{number}"])["tasks"])
            results: Any = evaluate(
                lm=Answers(),
                task_dict={"tasks": tasks, "groups": {}},
                bootstrap_iters=2,
                verbosity="ERROR",
            )
        behind = " (instruct)" if number else ""
        for key, value in results["results"][f"their_{number}"].items():
            if "," in key:
                found[key + behind] = value
    return found


def compared(file: Path, data: Path) -> dict[str, dict[str, Any]]:
    """Figure -> {ours, theirs} for one file of kept outputs."""
    task = TASKS[file.stem]
    items = read_items(file)
    docs = [json.loads(line) for line in (data / task.file).read_text().splitlines() if line]
    by_id = {item_id(task, doc, at): doc for at, doc in enumerate(docs)}
    outputs = [item["output"] for item in items]
    ours = summarise(task, items)["lm_eval"]
    with tempfile.TemporaryDirectory() as folder:
        asked = [by_id[item["id"]] for item in items]
        theirs = what_lm_eval_prints(task.name, asked, outputs, Path(folder))
    return {key: {"ours": ours.get(key), "theirs": theirs[key]} for key in theirs}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, help="evaluate's --out, or below it")
    parser.add_argument("--data", type=Path, required=True, help="the folder of the tasks' files")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    report = {}
    for file in sorted(file for folder in args.folders for file in folder.rglob("*.jsonl")):
        if file.stem not in THEIR_FILES:
            continue
        report[str(file)] = figures = compared(file, args.data)
        print(f"{file}: {len(read_items(file))} items")
        for key, pair in figures.items():
            same = pair["ours"] == pair["theirs"]
            print(
                f"  {key}: {pair['theirs']} {'the same' if same else 'OURS: ' + str(pair['ours'])}"
            )
    if args.json:
        args.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
