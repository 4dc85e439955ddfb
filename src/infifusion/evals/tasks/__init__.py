"""The tasks that models are scored on: a plain table from name to Task."""

from __future__ import annotations

from collections.abc import Mapping

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
TASKS: dict[str, Task] = {task.name: task for task in (GSM8K, MATH500, MATH, *CODE)}

__all__ = ["BITS", "TASKS", "Doc", "Judgement", "Judges", "Scorer", "Task", "require_task"]


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
            f"{where}: there is no task '{name}'.{nearest(name, known)} Known: {', '.join(known)}."
        )
