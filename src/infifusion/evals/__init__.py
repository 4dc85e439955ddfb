"""Evaluation: lm-evaluation-harness with our task files, the code sandbox, paired statistics."""
