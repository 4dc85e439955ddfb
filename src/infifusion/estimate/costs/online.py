"""A cached teacher against an online one: which costs less."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from infifusion.estimate.costs.case import PIVOT, Case, Row, schedule
from infifusion.estimate.costs.work import Work, forward_work
from infifusion.recipe import FuseTarget, Recipe, TrainingRun


@dataclass(frozen=True)
class Teaching:
    """A cached teacher against an online one, for all training runs with a target.

    cached: one pass per source, its cache written and read, the targets fused. online: a pass in
    every epoch of every run that the source teaches; nothing is written. Seconds on the wall.
    """

    cached_flops: float
    cached_seconds: float
    cached_bytes: float
    online_flops: float
    online_seconds: float
    passes: float

    @property
    def cheaper(self) -> str:
        """cached or online."""
        return "cached" if self.cached_seconds <= self.online_seconds else "online"


def teaching(case: Case, rows: Sequence[Row]) -> Teaching | None:
    """The comparison; None where no run has a target. rows: those of `all_cached`.

    The online estimate is that of a teacher beside the pivot: its forward pass over the batches
    that the pivot trains on, padded as those are, and the mixing of its beliefs as in fuse.
    """
    targets = {target.name: target for target in case.resolved.targets}
    runs = [run for run in case.resolved.runs if run.target is not None]
    if not runs:
        return None
    online = Work()
    passes = 0.0
    for run in runs:
        online += beside(case, run, targets[run.target or ""])
        passes += len(running(targets[run.target or ""])) * schedule(case, run).passes
    cached = [row for row in rows if row.stage in ("teach", "fuse")]
    return Teaching(
        cached_flops=sum(row.flops for row in cached),
        cached_seconds=sum(row.seconds for row in cached),
        cached_bytes=sum(row.bytes for row in cached),
        online_flops=online.all_flops,
        online_seconds=case.row("distill", "", online).seconds,
        passes=passes,
    )


def all_cached(recipe: Recipe) -> Recipe:
    """The recipe with no online target."""
    fuse = {name: one.model_copy(update={"teacher": "cached"}) for name, one in recipe.fuse.items()}
    return recipe.model_copy(update={"fuse": fuse})


def running(target: FuseTarget) -> list[str]:
    """Every model that an online target runs, batch by batch."""
    pivot = target.pivot_as_source or target.gate != "none"
    return [*target.sources, *([PIVOT] if pivot else [])]


def beside(case: Case, run: TrainingRun, target: FuseTarget) -> Work:
    """What the sources cost that run beside a pivot in training: their forward pass over its
    batches, and the mixing of their beliefs."""
    steps, work = schedule(case, run), Work()
    for name in running(target):
        lengths = case.trained(name, run)
        batches = lengths.at_random(lengths.examples, steps.batch)
        once = forward_work(case.models[name].shape, lengths, batches)
        once = case.rated(once, half=case.in_half(name))
        mixing = Work({}, {"fuse_position": case.trained(PIVOT, run).positions})
        work += (once + mixing).times(steps.passes)
    return work
