"""What a recipe stands for: plain lists of what each stage makes, in order."""

from __future__ import annotations

from typing import Any, Literal

from infifusion.recipe.fields import Fields
from infifusion.recipe.steps import Lora
from infifusion.strict import Strict


class FuseTarget(Strict):
    """One target to be fused: every field decided."""

    name: str
    sources: list[str]
    function: str
    params: dict[str, Any]
    gate: str
    pivot_as_source: bool
    keep: int
    alignment: str
    gold_path: bool
    teacher: str


class TrainingRun(Strict):
    """One training run: every field decided."""

    name: str
    group: str
    target: str | None
    loss: str
    params: dict[str, Any]
    gold_weight: float
    start: str
    lora: Lora | None
    parallel: str
    pack_tokens: int | None
    """Tokens of a pack; None without packing."""
    training: dict[str, Any]
    callbacks: list[str]
    loss_rows: int
    stop_at_rise: float | None
    domains: list[str] | None
    """Domains of the examples that it trains on; None for all."""
    written: bool | Literal["only"]


class MergeRun(Strict):
    """One merge: every field decided."""

    name: str
    method: str
    models: list[str]
    params: dict[str, Any]
    dtype: str | None
    device: str


class Plan(Strict):
    """What each stage makes, in order."""

    targets: list[FuseTarget]
    runs: list[TrainingRun]
    merges: list[MergeRun]
    scored: list[str]
    """Models that answer the tasks."""
    compared: list[tuple[str, str]]
    taught: list[str]
    """Whose beliefs are cached: sources, and `pivot` where a gate or pivot_as_source needs it."""

    @classmethod
    def of(cls, recipe: Fields) -> Plan:
        """Write out `each`, defaults of `keep`, `models` and `compare`."""
        targets = {name: _targets(recipe, name) for name in recipe.fuse}
        runs = {name: _runs(recipe, name, targets) for name in recipe.distill}
        merges = [
            MergeRun(
                name=name,
                method=merge.method,
                models=[run.name for model in merge.models for run in runs[model]],
                params=merge.params,
                dtype=merge.dtype,
                device=merge.device,
            )
            for name, merge in recipe.merge.items()
        ]
        every = [run for group in runs.values() for run in group]
        single = [run.name for run in every if run.name == run.group]
        tuned = [run.name for run in every if run.target is None]
        fused = [name for name in single if name not in tuned] + list(recipe.merge)
        scored = recipe.evaluate.models or [
            "pivot",
            *(f"source:{source}" for source in recipe.sources),
            *single,
            *recipe.merge,
        ]
        compared = [(a, b) for a, b in recipe.evaluate.compare] or [
            *(("pivot", name) for name in [*tuned, *fused]),
            *((base, name) for base in tuned for name in fused),
        ]
        made = [target for group in targets.values() for target in group]
        cached = [target for target in made if target.teacher == "cached"]
        return cls(
            targets=made,
            runs=every,
            merges=merges,
            scored=scored,
            compared=[(a, b) for a, b in compared if a in scored and b in scored],
            taught=[s for s in recipe.sources if any(s in t.sources for t in cached)]
            + (["pivot"] if any(t.gate != "none" or t.pivot_as_source for t in cached) else []),
        )


def _targets(recipe: Fields, name: str) -> list[FuseTarget]:
    """The target of that name, or with `each` one per source."""
    fuse = recipe.fuse[name]
    sources = fuse.sources if fuse.sources is not None else list(recipe.sources)
    parts = {f"{name}-{s}": [s] for s in sources} if fuse.each else {name: sources}
    return [
        FuseTarget(
            name=part,
            sources=part_sources,
            function=fuse.function,
            params=fuse.params,
            gate=fuse.gate,
            alignment=fuse.alignment,
            gold_path=fuse.gold_path,
            teacher=fuse.teacher,
            pivot_as_source=fuse.pivot_as_source,
            keep=fuse.keep or 2 * recipe.teach.top_k,
        )
        for part, part_sources in parts.items()
    ]


def _runs(recipe: Fields, name: str, targets: dict[str, list[FuseTarget]]) -> list[TrainingRun]:
    """The run of that name, or with `each` one per target of its group."""
    distill = recipe.distill[name]
    own: dict[str, FuseTarget | None] = {name: None}
    if distill.target is not None:
        group = targets[distill.target]
        own = {name + target.name.removeprefix(distill.target): target for target in group}
    runs: list[TrainingRun] = []
    for part, target in own.items():
        previous = runs[-1].name if runs else "pivot"
        runs.append(
            TrainingRun(
                name=part,
                group=name,
                target=None if target is None else target.name,
                loss="cross_entropy" if target is None else distill.loss,
                params={} if target is None else distill.params,
                gold_weight=1.0 if target is None else distill.gold_weight,
                start=previous if distill.start == "previous" else distill.start,
                lora=distill.lora,
                parallel=distill.parallel,
                pack_tokens=recipe.data.max_length if distill.packing else None,
                training={**recipe.training, **distill.training},
                callbacks=recipe.callbacks,
                loss_rows=distill.loss_rows,
                stop_at_rise=distill.stop_at_rise,
                domains=(
                    (target.sources if target is not None else [])
                    if distill.domains == "own"
                    else distill.domains
                ),
                written=distill.written,
            )
        )
    return runs
