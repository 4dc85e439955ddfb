"""How much memory and time a merge needs, from its plan alone."""

from __future__ import annotations

import math

from infifusion.errors import RecipeError
from infifusion.merge.blocks.arrays import BLOCK
from infifusion.merge.engine.plan import MergePlan
from infifusion.merge.engine.walker import usable_threads

# Anonymous memory of Python, NumPy and the compiled loops before the first tensor (measured).
STARTED = 150_000_000
# float32 arrays of a block beside the models': the base, the result, scores, draws, sort keys.
EXTRA_ROWS = 8
# Histograms of a tensor's threads (two per model: a running total and one being filled).
HISTOGRAM = 2 * 8 * (1 << 16)
ROW_METHODS = frozenset({"della", "della_linear", "nuslerp", "model_stock", "arcee_fusion"})


def memory_per_thread(plan: MergePlan) -> int:
    """Bytes that one thread works with at once."""
    most = 0
    for planned in plan.tensors.values():
        shape = planned.spec.shape
        row = shape[-1] if len(shape) > 1 else planned.spec.bytes
        block = max(BLOCK, row) if plan.method in ROW_METHODS else BLOCK
        models = len(planned.parts)
        most = max(most, 4 * block * (models + EXTRA_ROWS) + HISTOGRAM * models)
    # A tensor's own thread and one that works on its blocks.
    return 2 * most


def memory_of_host(plan: MergePlan, threads: int) -> int:
    """Bytes of anonymous memory, about, where the processor calculates."""
    return STARTED + threads * memory_per_thread(plan)


def most_parts(plan: MergePlan) -> int:
    """How many tensors are read for one, at most: the models and the base."""
    return max((len(planned.parts) for planned in plan.tensors.values()), default=0)


def positions_at_once(plan: MergePlan, block: int) -> int:
    """Positions of the largest block that a merge in blocks of `block` works on: no more than its
    largest tensor has, no fewer than the longest row where rows are merged whole."""
    shapes = [planned.spec.shape for planned in plan.tensors.values()]
    most = max((math.prod(shape) for shape in shapes), default=1)
    row = max((s[-1] if len(s) > 1 else math.prod(s) for s in shapes), default=1)
    return max(min(block, most), row if plan.method in ROW_METHODS else 1)


def fit_threads(plan: MergePlan, *, threads: int | None, memory: int | None) -> int:
    """As many threads as asked for and as fit the memory. RecipeError where not even one fits."""
    wanted = threads or usable_threads()
    if memory is None:
        return wanted
    each = memory_per_thread(plan)
    fits = (memory - STARTED) // max(each, 1)
    if fits < 1:
        raise RecipeError(
            f"--memory {memory / 1e6:.0f} MB is too little: this merge needs "
            f"{(STARTED + each) / 1e6:.0f} MB with one thread. Give at least that."
        )
    return min(wanted, int(fits))
