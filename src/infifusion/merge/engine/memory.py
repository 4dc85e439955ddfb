"""How much memory a merge needs, from its plan alone, and how many threads fit it."""

from __future__ import annotations

from infifusion.errors import RecipeError
from infifusion.merge.blocks.blocks import BLOCK
from infifusion.merge.engine.planner import MergePlan
from infifusion.merge.engine.walker import usable_threads

# Anonymous memory of Python, NumPy and the compiled loops before the first tensor (measured).
STARTED = 150_000_000
# Histograms of a tensor's threads (two per model: a running total and one being filled).
HISTOGRAM = 2 * 8 * (1 << 16)


def memory_needed(plan: MergePlan, threads: int) -> int:
    """Bytes of anonymous memory, about."""
    return STARTED + threads * _memory_per_thread(plan)


def fit_threads(plan: MergePlan, *, threads: int | None, memory: int | None) -> int:
    """As many threads as asked for and as fit the memory. RecipeError where not even one fits."""
    wanted = threads or usable_threads()
    if memory is None:
        return wanted
    fits = (memory - STARTED) // max(_memory_per_thread(plan), 1)
    if fits < 1:
        raise RecipeError(
            f"--memory {memory / 1e6:.0f} MB is too little: this merge needs "
            f"{memory_needed(plan, 1) / 1e6:.0f} MB with one thread. Give at least that."
        )
    return min(wanted, int(fits))


def _memory_per_thread(plan: MergePlan) -> int:
    """Bytes that one thread works with at once."""
    most = 0
    for planned in plan.tensors.values():
        shape = planned.spec.shape
        row = shape[-1] if len(shape) > 1 else planned.spec.bytes
        block = max(BLOCK, row) if plan.method.by_rows else BLOCK
        models = len(planned.parts)
        most = max(most, 4 * block * (models + plan.method.working_arrays) + HISTOGRAM * models)
    # A tensor's own thread and one that works on its blocks.
    return 2 * most
