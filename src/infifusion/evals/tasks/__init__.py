"""The tasks that models are scored on: a plain table from name to Task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from infifusion.errors import RecipeError
from infifusion.evals.tasks.gsm8k import GSM8K
from infifusion.evals.tasks.humaneval import HUMANEVAL, HUMANEVAL_PLUS
from infifusion.evals.tasks.math import MATH, MATH500
from infifusion.evals.tasks.mbpp import MBPP, MBPP_PLUS
from infifusion.evals.tasks.task import Doc, Judgement, Judges, Scorer, Task
from infifusion.registry import nearest

BITS = "bits_per_byte"
"""A task of the command evaluate alone: a recipe always computes it, over data.held_out."""
CODE = (HUMANEVAL, HUMANEVAL_PLUS, MBPP, MBPP_PLUS)
LM_EVAL = "lm_eval:"
"""What stands before the name of a task of lm-eval's own."""
TASKS: dict[str, Task] = {task.name: task for task in (GSM8K, MATH500, MATH, *CODE)}

__all__ = [
    "BITS",
    "LM_EVAL",
    "TASKS",
    "Doc",
    "Judgement",
    "Judges",
    "Scorer",
    "Task",
    "require_task",
    "with_lm_eval",
]


def with_lm_eval(table: Mapping[str, Task], asked: Iterable[str]) -> dict[str, Task]:
    """The table, and every task that is asked for as lm_eval:NAME. Whether lm-eval has it shows
    where its index is read (evals.lm_any)."""
    names = [name for name in asked if name.startswith(LM_EVAL) and name != LM_EVAL]
    return {**table, **{name: _of_lm_eval(name) for name in names}}


def _of_lm_eval(name: str) -> Task:
    own = name.removeprefix(LM_EVAL)
    return Task(name, f"lm-eval's own {own}", "", f"{own}.yaml", _judged_elsewhere, lm_eval=own)


def _judged_elsewhere(task: Task, doc: Doc, output: str, judges: Judges) -> Judgement:
    raise AssertionError(f"{task.name} is judged by lm-eval")


def require_task(
    name: str, table: Mapping[str, Task], *, where: str, also: tuple[str, ...] = ()
) -> None:
    """RecipeError, which begins with `where`, unless the table has the task; also: further names
    that are known there."""
    if name == BITS:
        raise RecipeError(f"{where}: {BITS} of data.held_out is always computed; leave it out.")
    if name not in table:
        known = [*sorted(table), *also]
        raise RecipeError(
            f"{where}: there is no task '{name}'.{nearest(name, known)} Known: {', '.join(known)}; "
            f"{LM_EVAL}NAME for any of lm-eval's."
        )
