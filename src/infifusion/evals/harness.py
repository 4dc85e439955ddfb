"""Score one model on tasks: lm-evaluation-harness asks, scoring.py judges."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partialmethod
from pathlib import Path
from typing import Any, Literal

from infifusion.artifacts import atomic_write
from infifusion.errors import CheckpointError, InfiFusionError
from infifusion.evals.sandbox import require_sandbox
from infifusion.evals.scoring import Item, Output, item_id, score_outputs, summarise
from infifusion.evals.tasks import TASKS, Task
from infifusion.registry import look_up
from infifusion.runtime import keep_freed_memory, pick_device, pick_dtype, quiet_libraries


def evaluate_model(
    model_path: Path | str,
    *,
    tasks: Sequence[str],
    data: Path | None,
    out: Path,
    limit: int | None = None,
    batch_size: int = 64,
    max_new_tokens: int | None = None,
    device: str | None = None,
    dtype: str = "auto",
    apply_chat_template: bool | Literal["auto"] = "auto",
    extra_tasks: Mapping[str, Task] | None = None,
    unsafe_code: bool = False,
    tokenizer: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Generate greedily, judge, write out/<task>.jsonl (one item a line), return the summaries.

    model_path: a folder (a Path must exist) or a hub name; `tokenizer` where it lies elsewhere.
    data: folder with the tasks' files; None reads the hub.
    limit: items per task, a sample drawn with `seed`: the same items for every model.
    max_new_tokens: longest generation for every task; None is each task's own.
    device, dtype: the best there is; float32 on a CPU, else bfloat16, by default. In bfloat16,
        greedy outputs change with batch_size: compare models at one batch size.
    apply_chat_template: auto applies it where the tokenizer has one.
    extra_tasks: name -> Task, further rows of the table TASKS.

    The summary of a task is scoring.summarise. Raises RecipeError for an unknown task, DataError
    for bad items, CheckpointError for a model that does not load, SandboxError, before anything is
    generated, where code cannot be run safely.
    """
    table = {**TASKS, **(extra_tasks or {})}
    chosen = [look_up(table, name, kind="task") for name in tasks]
    if any(task.needs_sandbox for task in chosen) and not unsafe_code:
        require_sandbox()
    summaries = {}
    with _quietly(), tempfile.TemporaryDirectory(prefix="infifusion-tasks-") as folder:
        device = device or pick_device()
        if device == "cpu":
            keep_freed_memory()
        model = _load_model(
            model_path,
            device=device,
            dtype=str(pick_dtype(dtype, device)).removeprefix("torch."),
            batch_size=batch_size,
            tokenizer=tokenizer,
            revision=revision or "main",
            trust_remote_code=trust_remote_code,
        )
        chat = apply_chat_template
        if chat == "auto":
            chat = bool(model.tokenizer.chat_template)
        from infifusion.evals.lm_tasks import load_lm_tasks

        loaded = load_lm_tasks(
            chosen, Path(folder), data=data, chat=chat, max_new_tokens=max_new_tokens
        )
        asked = {
            task.name: _ask(model, task, loaded[task.name], limit=limit, chat=chat, seed=seed)
            for task in chosen
        }
        del model
        _free_memory()
        for task in chosen:
            docs, ids, prompts, outputs = asked[task.name]
            items = score_outputs(
                task, docs, outputs, ids=ids, prompts=prompts, unsafe_code=unsafe_code
            )
            write_items(out / f"{task.name}.jsonl", items)
            summaries[task.name] = summarise(task, items)
    return summaries


def write_items(path: Path, items: Sequence[Item]) -> None:
    """Write one JSON object a line, whole or not at all."""
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for item in items:
            file.write(json.dumps(item, ensure_ascii=False) + "\n")


def sample_places(sizes: Sequence[int], limit: int | None, *, seed: int) -> list[list[int]]:
    """Which items of each part are asked: all, or `limit` of them, drawn over all parts together.

    The places of each part ascend.
    """
    places = [(part, place) for part, size in enumerate(sizes) for place in range(size)]
    if limit is not None and limit < len(places):
        places = random.Random(seed).sample(places, limit)
    return [sorted(place for p, place in places if p == part) for part in range(len(sizes))]


def _ask(
    model: Any, task: Task, parts: dict[str, Any], *, limit: int | None, chat: bool, seed: int
) -> tuple[list[dict[str, Any]], list[str], list[str], list[Output]]:
    """Run lm-eval on one task; docs, ids, exact prompts and outputs, in the file's order."""
    from lm_eval.evaluator import evaluate

    places = sample_places([len(part.eval_docs) for part in parts.values()], limit, seed=seed)
    samples = {name: where for name, where in zip(parts, places, strict=True) if where}
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
    docs, ids, prompts, outputs = [], [], [], []
    for name, where in samples.items():
        logged = {sample["doc_id"]: sample for sample in results["samples"][name]}
        for place in where:
            prompt, settings = logged[place]["arguments"][0][:2]
            doc = dict(logged[place]["doc"])
            own = item_id(task, doc, place)
            docs.append(doc)
            ids.append(own if len(parts) == 1 or task.id_field else f"{name}/{place}")
            prompts.append(prompt)
            outputs.append(model.outputs[(prompt, json.dumps(settings, sort_keys=True))])
    return docs, ids, prompts, outputs


def _load_model(path: Path | str, *, tokenizer: str | None, **options: Any) -> Any:
    if isinstance(path, Path) and not (path / "config.json").is_file():
        raise CheckpointError(
            f"{path} is not a model folder: it has no config.json. Give a folder that "
            "AutoModelForCausalLM loads, with its tokenizer, or a hub name."
        )
    from infifusion.data.tokenizers import load_tokenizer
    from infifusion.evals.generation import GreedyLM

    try:
        # The tokenizer that the rest of the run uses: it does what its tokenizer.json says.
        loaded = load_tokenizer(
            tokenizer or str(path),
            revision=options.get("revision"),
            trust_remote_code=bool(options.get("trust_remote_code")),
        )
        return GreedyLM(str(path), tokenizer=loaded, **options)
    except InfiFusionError:
        raise
    except Exception as error:  # transformers raises many kinds, all about the folder
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"{path} cannot be loaded as a causal language model with its tokenizer: "
            f"{type(error).__name__}: {reason}. Give a folder that AutoModelForCausalLM loads, or "
            "the name of a model that the hub gives."
        ) from error


def _free_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """lm-eval's notices and bars off, and back on afterwards; our own bars stay."""
    import tqdm

    quiet_libraries()
    loggers = [logging.getLogger(name) for name in ("lm_eval", "lm-eval", "datasets")]
    levels = [logger.level for logger in loggers]
    bar: Any = tqdm.tqdm
    start = bar.__init__
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    bar.__init__ = partialmethod(start, disable=True)
    try:
        yield
    finally:
        bar.__init__ = start
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
