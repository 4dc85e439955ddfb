"""Score one model on tasks: lm-evaluation-harness asks, scoring.py judges."""

from __future__ import annotations

import contextlib
import json
import logging
import random
import tempfile
from collections.abc import Iterator, Sequence
from functools import partialmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from infifusion.data.lines import read_lines, write_lines
from infifusion.evals.scoring import Item, Output, item_id, score_outputs, summarise
from infifusion.evals.tasks.task import Task
from infifusion.process.memory import BatchSize, free_memory
from infifusion.process.runtime import quiet_libraries
from infifusion.recipe import Model
from infifusion.sandbox.programs import require_sandbox

if TYPE_CHECKING:
    from infifusion.engine.engine import Remote
    from infifusion.evals.lm_tasks import Sampling


def evaluate_model(
    model: Model,
    *,
    tasks: Sequence[Task],
    data: Path | None,
    out: Path,
    limit: int | None = None,
    batch_size: int | BatchSize = 64,
    max_new_tokens: int | None = None,
    part: tuple[int, int] = (0, 1),
    apply_chat_template: bool | Literal["auto"] = "auto",
    unsafe_code: bool = False,
    seed: int = 0,
    samples: int = 1,
    temperature: float = 0.0,
    top_p: float = 1.0,
    remote: Remote | None = None,
) -> dict[str, dict[str, Any]]:
    """Generate, greedily by default, judge, write out/<task>.jsonl (one item a line), return the
    summaries.

    model: as a recipe describes one; `auto` is float32 on a CPU here, else bfloat16. In bfloat16 a
        few greedy outputs change with batch_size: compare models at one batch size.
    data: folder with the tasks' files; None reads the hub.
    limit: items per task, a sample drawn with `seed`: the same items for every model.
    max_new_tokens: longest generation for every task; None is each task's own.
    batch_size: prompts generated at once; halved once where they do not fit into memory.
    part: (p, n) asks every n-th item alone, from the p-th on; `merge_parts` puts n such folders
        together.
    apply_chat_template: auto applies it where the tokenizer has one.
    samples, temperature, top_p: answers per item, and how they are drawn; `seed` draws them too.
    remote: the model in its engine, which answers in its place; its weights are not loaded.

    The summary of a task is scoring.summarise. Raises DataError for bad items, CheckpointError for
    a model that does not load, SandboxError, before anything is generated, where code cannot be run
    safely.
    """
    if any(task.needs_sandbox for task in tasks) and not unsafe_code:
        require_sandbox()
    summaries = {}
    with _quietly(), tempfile.TemporaryDirectory(prefix="infifusion-tasks-") as folder:
        loaded_model, chat = _load_model(
            model, apply_chat_template, batch_size=batch_size, remote=remote
        )
        from infifusion.evals.lm_any import lm_items
        from infifusion.evals.lm_tasks import Sampling, load_lm_tasks

        sampling = Sampling(samples, temperature, top_p, seed)
        own = [task for task in tasks if task.lm_eval is None]
        loaded = load_lm_tasks(
            own,
            Path(folder),
            data=data,
            chat=chat,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
        )
        asked, judged = {}, {}
        for task in tasks:
            if task.lm_eval is not None:
                judged[task.name] = lm_items(
                    loaded_model,
                    task,
                    lambda sizes: every_nth(sample_places(sizes, limit, seed=seed), part),
                    data=data,
                    chat=chat,
                )
                continue
            loaded_model.title = f"{task.name}: generate"
            parts = loaded[task.name]
            places = every_nth(sample_places(_asked(task, parts), limit, seed=seed), part)
            asked[task.name] = _ask(loaded_model, task, parts, places, sampling=sampling, chat=chat)
        del loaded_model
        free_memory()
        for task in tasks:
            if task.lm_eval is not None:
                items = judged[task.name]
            else:
                docs, ids, prompts, outputs = asked[task.name]
                items = score_outputs(
                    task, docs, outputs, ids=ids, prompts=prompts, unsafe_code=unsafe_code
                )
            write_lines(out / f"{task.name}.jsonl", items)
            if items or part[1] == 1:
                summaries[task.name] = summarise(task, items)
    return summaries


def merge_parts(folders: Sequence[Path], out: Path, task: Task) -> dict[str, Any]:
    """Write out/<task>.jsonl from the parts (0, n) ... (n - 1, n), in the task's own order; its
    summary."""
    parts = [read_items(folder / f"{task.name}.jsonl") for folder in folders]
    items = [
        items[place]
        for place in range(max(map(len, parts)))
        for items in parts
        if place < len(items)
    ]
    write_lines(out / f"{task.name}.jsonl", items)
    return summarise(task, items)


def read_items(path: Path) -> list[Item]:
    """The judged items of a task's file; ArtifactError where a line is damaged."""
    return list(read_lines(path))


def sample_places(
    parts: Sequence[int | Sequence[int]], limit: int | None, *, seed: int
) -> list[list[int]]:
    """Which items of each part are asked: all, or `limit` of them, drawn over all parts together.

    A part is its size, or the places of those of its items that can be asked. The places of each
    part ascend.
    """
    there = [range(part) if isinstance(part, int) else part for part in parts]
    places = [(part, place) for part, some in enumerate(there) for place in some]
    if limit is not None and limit < len(places):
        places = random.Random(seed).sample(places, limit)
    return [sorted(place for p, place in places if p == part) for part in range(len(parts))]


def _asked(task: Task, parts: dict[str, Any]) -> list[list[int]]:
    """The places of the items that the task is about, in each part; all where it says nothing, or
    the file holds none of them."""
    everything = [list(range(len(one.eval_docs))) for one in parts.values()]
    if task.asked is None:
        return everything
    found = [
        [place for place, doc in enumerate(one.eval_docs) if task.asked(doc)]
        for one in parts.values()
    ]
    return found if any(found) else everything


def every_nth(places: list[list[int]], part: tuple[int, int]) -> list[list[int]]:
    """Of the places of all parts end to end, every n-th from the p-th on: part is (p, n)."""
    flat = [(number, place) for number, some in enumerate(places) for place in some]
    mine = flat[part[0] :: part[1]]
    return [[place for n, place in mine if n == number] for number in range(len(places))]


def _ask(
    model: Any,
    task: Task,
    parts: dict[str, Any],
    places: list[list[int]],
    *,
    sampling: Sampling,
    chat: bool,
) -> tuple[list[dict[str, Any]], list[str], list[str], list[list[Output]]]:
    """Run lm-eval on one task; docs, ids, exact prompts and samples, in the file's order."""
    from lm_eval.api.instance import Instance

    from infifusion.evals.lm_tasks import run_lm_eval

    samples = {name: where for name, where in zip(parts, places, strict=True) if where}
    if not samples:
        return [], [], [], []
    logs = run_lm_eval(model, parts, samples, chat=chat)
    docs, ids, requests = [], [], []
    for name, where in samples.items():
        logged = {sample["doc_id"]: sample for sample in logs[name]}
        for place in where:
            doc = dict(logged[place]["doc"])
            own = item_id(task, doc, place)
            docs.append(doc)
            ids.append(own if len(parts) == 1 or task.id_field else f"{name}/{place}")
            requests.append(logged[place]["arguments"][0][:2])
    # lm-eval has asked for the first sample of every item; the others are the same but for one.
    asked = [
        [(prompt, settings | sampling.settings(sample=n)) for n in range(sampling.samples)]
        for prompt, settings in requests
    ]
    more: Any = [one for item in asked for one in item[1:]]
    model.generate_until([Instance("generate_until", {}, one, 0) for one in more])
    outputs = [[model.outputs[p, json.dumps(s, sort_keys=True)] for p, s in item] for item in asked]
    return docs, ids, [prompt for prompt, _ in requests], outputs


def _load_model(
    model: Model,
    apply_chat_template: bool | Literal["auto"],
    *,
    batch_size: int | BatchSize,
    remote: Remote | None,
) -> tuple[Any, bool]:
    """The model ready to be asked, and whether its chat template is used."""
    from infifusion.data.tokenizers import tokenizer_of
    from infifusion.evals.generation import GreedyLM
    from infifusion.teacher.load import load_model, without_weights

    loaded = load_model(model) if remote is None else without_weights(model)
    tokenizer = tokenizer_of(model)
    chat = bool(tokenizer.chat_template) if apply_chat_template == "auto" else apply_chat_template
    lm = GreedyLM(
        loaded,
        tokenizer=tokenizer,
        batch_size=batch_size,
        chat=chat,
        system=model.system,
        remote=remote,
    )
    return lm, chat


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
