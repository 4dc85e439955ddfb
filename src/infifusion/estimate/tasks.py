"""The tasks of a plan: how many items, how long prompts and answers are."""

from __future__ import annotations

import json
from pathlib import Path

from infifusion.data.lines import Record, read_jsonl
from infifusion.estimate.costs.case import TaskFacts
from infifusion.evals.tasks import TASKS, Task, require_task, with_lm_eval
from infifusion.recipe import Recipe
from infifusion.registry import look_up

# Items of the public test sets, where their file is not on this machine.
ITEMS = {"gsm8k": 1319, "math500": 500, "math": 5000, "humaneval": 164, "humaneval_plus": 164}
ITEMS |= {"mbpp": 500, "mbpp_plus": 378}
# Characters per token of English prose and code in vocabularies of 30k and more.
CHARACTERS_PER_TOKEN = 3.5
PROMPT_TOKENS = 150  # of an item whose file is not here
# The examples shown before the item, of tasks that show some: five of GSM8K, four of MATH, three of
# MBPP.
FEW_SHOT_TOKENS = 700


def task_facts(recipe: Recipe, notes: list[str]) -> list[TaskFacts]:
    """Every task of the recipe; generation is taken to run to its limit."""
    settings = recipe.evaluate
    if not settings.tasks:
        return []
    table = dict(TASKS)
    if settings.tasks_from:
        where = "evaluate.tasks_from"
        table |= look_up({}, settings.tasks_from, kind="table of tasks", where=where)
    table = with_lm_eval(table, settings.tasks)
    for name in settings.tasks:
        require_task(name, table, where="evaluate.tasks")
    found = [_facts(table[name], recipe) for name in settings.tasks]
    notes.append("tasks: every answer is taken to run to its limit of tokens, the most it can cost")
    return found


def require_known(task: str, *, where: str) -> None:
    """RecipeError, which begins with `where`, unless it is one of our tasks."""
    require_task(task, with_lm_eval(TASKS, [task]), where=where)


def _facts(task: Task, recipe: Recipe) -> TaskFacts:
    settings = recipe.evaluate
    path = Path(settings.data or "") / task.file
    items, prompt = ITEMS.get(task.name, 500), float(PROMPT_TOKENS)
    if settings.data and path.is_file():
        docs = [doc for _, doc in read_jsonl(path)]
        docs = [doc for doc in docs if task.asked is None or task.asked(doc)] or docs
        items = len(docs)
        prompt = _prompt_tokens(task, docs[:200])
    if settings.limit is not None:
        items = min(items, settings.limit)
    if task.few_shot_file or (task.config and task.name.startswith(("math", "mbpp"))):
        prompt += FEW_SHOT_TOKENS
    items *= settings.samples
    return TaskFacts(task.name, items, prompt, settings.max_new_tokens or task.max_new_tokens)


def _prompt_tokens(task: Task, docs: list[Record]) -> float:
    """Mean tokens of the items' prompts, by their characters."""
    template = task.prompt_template
    texts = []
    for doc in docs:
        try:
            text = template.format_map(doc) if "{" in template else str(doc[template])
        except (KeyError, ValueError, IndexError):
            text = json.dumps(doc)
        texts.append(text)
    return sum(map(len, texts)) / max(len(texts), 1) / CHARACTERS_PER_TOKEN
