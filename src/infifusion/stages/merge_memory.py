"""How much memory and time a merge needs, from its plan alone."""

from __future__ import annotations

from infifusion.errors import RecipeError
from infifusion.merge.blocks import BLOCK
from infifusion.stages.merge_plan import MergePlan
from infifusion.weights.walker import usable_threads

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
