"""Evaluation: lm-evaluation-harness with our task files, the code sandbox, paired statistics."""

from infifusion.evals.tasks.programs import extract_program

__all__ = ["extract_program"]
