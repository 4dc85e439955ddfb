"""Our tasks as lm-evaluation-harness tasks: its YAML, completed for this run, and loaded.

Only the tasks asked for are indexed (`include_defaults=False`): reading the 10,000 task files of
lm-eval would take longer than a small evaluation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any

from lm_eval.tasks import TaskManager

from infifusion.data.lines import read_jsonl
from infifusion.errors import DataError
from infifusion.evals.lm_figures import functions_of, tasks_folder
from infifusion.evals.tasks.task import Task

EXAMPLES = re.compile(r"\$LM_EVAL_EXAMPLES\(([\w/.]+)\)")


@dataclass(frozen=True)
class Sampling:
    """How outputs are drawn: `samples` per item, at a temperature (0 is greedy) and from the most
    probable tokens that hold `top_p`; `seed` draws them."""

    samples: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def settings(self, *, sample: int) -> dict[str, Any]:
        """What lm-eval hands on to generation.py, for one sample of every item."""
        if self.temperature == 0:
            return {"do_sample": False}
        drawn = {"temperature": self.temperature, "top_p": self.top_p}
        return {"do_sample": True, **drawn, "seed": self.seed, "sample": sample}


GREEDY = Sampling()


def load_lm_tasks(
    tasks: Sequence[Task],
    folder: Path,
    *,
    data: Path | None,
    chat: bool,
    max_new_tokens: int | None,
    sampling: Sampling = GREEDY,
) -> dict[str, dict[str, Any]]:
    """Task name -> lm-eval name -> lm-eval task; several of the latter for a hub set with subsets.

    Writes the completed YAML files into `folder`. Raises DataError for a file that is missing, is
    not JSON lines or lacks the field of the answer.
    """
    names: dict[str, dict[str, str]] = {}
    (folder / "base").mkdir(parents=True)
    (folder / "tasks").mkdir()
    for task in tasks:
        sources = _sources(task, data)
        names[task.name] = {}
        for subset, source in sources.items():
            name = f"{task.name}@{subset}" if len(sources) > 1 else task.name
            overlay = {
                "task": name,
                "include": str(_base(task, folder / "base")),
                **source,
                "generation_kwargs": {
                    # A chat model ends its turn; the stops of few-shot prompts would cut it short.
                    "until": [] if chat else list(task.stop),
                    "max_gen_toks": max_new_tokens or task.max_new_tokens,
                    **sampling.settings(sample=0),
                },
            }
            if chat and task.chat_prompt is not None:
                overlay |= {"doc_to_text": jinja(task.chat_prompt), "num_fewshot": 0}
            # JSON is YAML.
            (folder / "tasks" / f"{name}.yaml").write_text(json.dumps(overlay), encoding="utf-8")
            names[task.name][name] = subset
    manager = TaskManager(include_path=str(folder / "tasks"), include_defaults=False)
    wanted = [name for group in names.values() for name in group]
    try:
        loaded = dict(manager.load(wanted)["tasks"])
    except Exception as error:  # datasets and the hub raise many kinds, all about the input
        reason = str(error).strip().partition("\n")[0]
        raise DataError(
            f"The items of {', '.join(wanted)} cannot be loaded: {type(error).__name__}: {reason}. "
            "Without a connection to the hub, give a folder with the tasks' files by --data."
        ) from error
    for lm_task in loaded.values():
        lm_task.override_metric(metric_name="bypass")  # outputs are judged by scoring.py
        lm_task.set_fewshot_seed(seed=0)
    return {task: {name: loaded[name] for name in group} for task, group in names.items()}


def run_lm_eval(
    model: Any, parts: dict[str, Any], samples: dict[str, list[int]], *, chat: bool
) -> dict[str, list[dict[str, Any]]]:
    """What lm-eval logs of every item that it asks, by part. samples: the places of those items."""
    from lm_eval.evaluator import evaluate

    results: Any = evaluate(
        lm=model,
        task_dict={"tasks": {name: parts[name] for name in samples}, "groups": {}},
        samples=samples,
        bootstrap_iters=0,
        log_samples=True,
        apply_chat_template=chat,
        fewshot_as_multiturn=chat,
        verbosity="ERROR",
    )
    return results["samples"]


def _require_items(task: Task, path: Path, *fields: str) -> None:
    """DataError unless the file holds items, one JSON object a line, each with these fields."""
    if not path.is_file():
        raise DataError(
            f"There is no {path}: the task {task.name} reads it from the folder given as --data "
            "(evaluate.data). Put it there, or leave --data out to read the hub."
        )
    where = ""
    for where, doc in read_jsonl(path, advice="Mend or remove the line."):
        for name in fields:
            if name not in doc:
                raise DataError(
                    f"{where}: the task {task.name} expects a field '{name}'. Fields: "
                    f"{', '.join(doc)}. Rename the field, or give the task's own file "
                    "(docs/evaluation.md)."
                )
    if not where:
        raise DataError(
            f"{path} holds no items; the task {task.name} needs some. Give a file with one JSON "
            "object a line, or leave --data out to read the hub."
        )


def jinja(template: str) -> str:
    """A field's name, or a template over {fields}, in lm-eval's template language."""
    if "{" not in template:
        return "{{" + template + "}}"
    parts = []
    for text, name, _, _ in Formatter().parse(template):
        parts.append("{{ " + json.dumps(text) + " }}" if text else "")
        parts.append("{{" + name + "}}" if name else "")
    return "".join(parts)


def _sources(task: Task, data: Path | None) -> dict[str, dict[str, Any]]:
    """Subset -> the dataset keys of its YAML."""
    if data is None:
        if task.hub is None:
            raise DataError(
                f"The task {task.name} is not on the hub; give the folder with {task.file} by "
                "--data (evaluate.data)."
            )
        return {
            subset: {"dataset_path": task.hub, "dataset_name": subset, "test_split": task.split}
            for subset in task.subsets
        }
    files = {"test": (data / task.file).resolve()}
    _require_items(task, data / task.file, task.gold_field)
    if task.few_shot_file is not None:
        files["train"] = (data / task.few_shot_file).resolve()
        _require_items(task, data / task.few_shot_file)
    source = {
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {split: str(file) for split, file in files.items()}},
        "test_split": "test",
    }
    return {task.name: source}


def _base(task: Task, folder: Path) -> Path:
    """The task's YAML without its data: ours, or one made from its prompt template."""
    path = folder / f"{task.name}.yaml"
    if task.config is not None:
        text = task.config.read_text(encoding="utf-8")
        text = text.replace("$LM_EVAL_TASKS", str(tasks_folder()))
        text = EXAMPLES.sub(lambda found: _examples(found[1]), text)
    else:
        text = json.dumps(
            {
                "output_type": "generate_until",
                "doc_to_text": jinja(task.prompt_template),
                "doc_to_target": task.gold_field,
                "num_fewshot": 0,
                "metric_list": [{"metric": "exact_match"}],
                "metadata": {"version": 1.0},
            }
        )
    path.write_text(text, encoding="utf-8")
    return path


def _examples(file: str) -> str:
    """The examples shown in the prompt of a task of lm-eval, as JSON."""
    return json.dumps(functions_of(file, "list_fewshot_samples")["list_fewshot_samples"]())
