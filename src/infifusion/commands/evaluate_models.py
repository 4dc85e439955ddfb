"""`infifusion evaluate`: models by themselves, without a run."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from infifusion.data.examples import read_examples
from infifusion.data.tokenize import as_rendered
from infifusion.errors import RecipeError
from infifusion.evals.harness import evaluate_model, read_items
from infifusion.evals.lm_any import require_lm_tasks
from infifusion.evals.statistics import compare
from infifusion.evals.tasks import BITS, Task, require_task, with_lm_eval
from infifusion.process.wording import short_names
from infifusion.recipe import DataSource, Model, sampling_problems
from infifusion.stages.evaluate import tasks_with
from infifusion.stages.rendering import tokenize_examples
from infifusion.store.records import write_json
from infifusion.teacher.arithmetic import with_dtype
from infifusion.teacher.bits import bits_per_byte_by_domain
from infifusion.teacher.gguf import as_folder


def evaluate_models(
    models: list[str],
    *,
    tasks: list[str],
    data: Path | None,
    limit: int | None,
    out: Path | None,
    batch_size: int,
    max_new_tokens: int | None,
    unsafe_code: bool,
    tasks_from: str | None = None,
    samples: int = 1,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> dict[str, Any]:
    """Scores of each model, and the first compared with each other one."""
    if problems := sampling_problems(samples, temperature, top_p):
        raise RecipeError(f"evaluate: {'; '.join(problems)}.")
    table = tasks_with(tasks_from, where="--tasks-from")
    if not tasks:
        raise RecipeError(f"--tasks names no task. Known: {', '.join([*sorted(table), BITS])}.")
    generated = [task for task in tasks if task != BITS]
    table = with_lm_eval(table, generated)
    for task in generated:
        require_task(task, table, where="--tasks", also=(BITS,))
    require_lm_tasks(
        [table[task] for task in generated], data=data, drawn=temperature > 0, where="--tasks"
    )
    names = _distinct_names(models)
    result: dict[str, Any] = {"models": {}, "comparisons": []}
    folder = out or Path(tempfile.mkdtemp(prefix="infifusion-evaluate-"))
    try:
        for name, path in names.items():
            place = folder / name
            place.mkdir(parents=True, exist_ok=True)
            model = with_dtype(as_folder(Model(model=path)))
            scored: dict[str, Any] = {"path": path, "scores": {}, BITS: {}}
            if generated:
                scored["scores"] = evaluate_model(
                    model,
                    tasks=[table[task] for task in generated],
                    data=data,
                    out=place,
                    limit=limit,
                    batch_size=batch_size,
                    max_new_tokens=max_new_tokens,
                    unsafe_code=unsafe_code,
                    seed=seed,
                    samples=samples,
                    temperature=temperature,
                    top_p=top_p,
                )
            if BITS in tasks:
                scored[BITS] = _bits_of_tasks(model, table, data, limit)
            result["models"][name] = scored
            write_json(place / "scores.json", scored)
        first, *others = names
        for other in others:
            for task in generated:
                pair = [read_items(folder / n / f"{task}.jsonl") for n in (first, other)]
                result["comparisons"].append(
                    {"a": first, "b": other, "task": task, **compare(*pair)}
                )
    finally:
        if out is None:
            shutil.rmtree(folder, ignore_errors=True)
    return result


def _bits_of_tasks(
    model: Model, table: dict[str, Task], data: Path | None, limit: int | None
) -> dict[str, float]:
    """Bits per byte of the reference responses of every task whose file is in `data`."""
    if data is None:
        raise RecipeError("bits_per_byte reads the tasks' own files: give their folder by --data.")
    sources = [
        DataSource(
            path=str(data / task.file),
            domain=name,
            prompt=task.prompt_template,
            response=task.response_field,
            limit=limit,
        )
        for name, task in table.items()
        if task.response_field and (data / task.file).exists()
    ]
    if not sources:
        expected = ", ".join(t.file for t in table.values() if t.response_field)
        raise RecipeError(
            f"bits_per_byte: {data} holds none of {expected}. For data of "
            "your own give a recipe data.held_out: its bits per byte are scored by infifusion run."
        )
    examples = [example for source in sources for example in read_examples(source, seed=0)[0]]
    tokenized = tokenize_examples(
        model, examples, plain_template="{prompt}{response}", title=f"tokenize for {model.model}"
    )
    return bits_per_byte_by_domain(
        model,
        as_rendered(tokenized),
        [example.domain for example in examples],
        names=[example.id for example in examples],
        title=f"bits per byte of {model.model}",
    )


def _distinct_names(models: list[str]) -> dict[str, str]:
    """Short names for folders and tables, each with its model."""
    if len({os.path.abspath(model) for model in models}) < len(models):
        raise RecipeError("One model is named twice; name each model once.")
    names = short_names(os.path.abspath(model) for model in models)
    return {(names[os.path.abspath(one)] or "root").replace("/", "__"): one for one in models}
