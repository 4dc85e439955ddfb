"""Merge methods: S checkpoints and the base in, one set of weights out."""

from infifusion.merge import (
    dare_linear,
    dare_ties,
    linear,
    rsaf,
    sce,
    slerp,
    task_arithmetic,
    ties,
)

METHODS = {
    "rsaf": rsaf.rsaf,
    "sce": sce.sce,
    "ties": ties.ties,
    "dare_ties": dare_ties.dare_ties,
    "dare_linear": dare_linear.dare_linear,
    "task_arithmetic": task_arithmetic.task_arithmetic,
    "linear": linear.linear,
    "slerp": slerp.slerp,
}

PARAMS = {
    "rsaf": rsaf.Params,
    "sce": sce.Params,
    "ties": ties.Params,
    "dare_ties": dare_ties.Params,
    "dare_linear": dare_linear.Params,
    "task_arithmetic": task_arithmetic.Params,
    "linear": linear.Params,
    "slerp": slerp.Params,
}

NEEDS_BASE = frozenset(METHODS) - {"linear", "slerp"}
