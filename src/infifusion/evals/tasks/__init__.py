"""The tasks that models are scored on: a plain table from name to Task."""

from infifusion.evals.tasks.gsm8k import GSM8K
from infifusion.evals.tasks.humaneval import HUMANEVAL
from infifusion.evals.tasks.math import MATH, MATH500
from infifusion.evals.tasks.task import Doc, Judgement, Judges, Scorer, Task

TASKS: dict[str, Task] = {task.name: task for task in (GSM8K, MATH500, MATH, HUMANEVAL)}

__all__ = ["TASKS", "Doc", "Judgement", "Judges", "Scorer", "Task"]
