"""The recipe written out: plain lists of what each stage makes, in order."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

from infifusion.recipe.fields import Fields
from infifusion.recipe.steps import Distill, Lora, OnPolicy
from infifusion.strict import Strict

Made = TypeVar("Made", bound=Strict)
EVALUATED = (
    "eval_strategy",
    "eval_steps",
    "eval_delay",
    "eval_on_start",
    "load_best_model_at_end",
    "metric_for_best_model",
    "greater_is_better",
)
"""How runs of the pivot are scored while they train; a source is scored before and after."""


class FuseTarget(Strict):
    """One target to be fused: every field decided."""

    LATER = ("inside",)

    name: str
    sources: list[str]
    function: str
    params: dict[str, Any]
    gate: str
    pivot_as_source: bool
    keep: int
    alignment: str
    gold_path: bool
    inside: float | None = None
    teacher: str


class TrainingRun(Strict):
    """One training run: every field decided."""

    LATER = ("gate", "doubt", "early_stopping", "on_policy", "of")

    name: str
    of: str = "pivot"
    """The model that is trained: pivot, or the source that is tuned."""
    group: str
    target: str | None
    loss: str
    params: dict[str, Any]
    gold_weight: float
    gate: Literal["none", "pivot"] = "none"
    doubt: float = 0.1
    start: str
    lora: Lora | None
    parallel: str
    pack_tokens: int | None
    """Tokens of a pack; None without packing."""
    training: dict[str, Any]
    callbacks: list[str]
    loss_rows: int
    stop_at_rise: float | None
    early_stopping: int | None = None
    domains: list[str] | None
    """Domains of the examples that it trains on; None for all."""
    written: bool | Literal["only"]
    on_policy: OnPolicy | None = None
    """None also where its share is 0."""

    @property
    def where(self) -> str:
        """The key of the recipe that asks for it."""
        return f"distill.{self.name}" if self.of == "pivot" else f"sources.{self.of}.tune"

    @property
    def evaluates(self) -> bool:
        """Whether it is scored while it trains."""
        return self.training.get("eval_strategy", "no") not in ("no", None, False)


class MergeRun(Strict):
    """One merge: every field decided."""

    name: str
    method: str
    models: list[str]
    params: dict[str, Any]
    dtype: str | None
    device: str


class Resolved(Strict):
    """What each stage makes, in order: what resolved.json holds under `plan`."""

    targets: list[FuseTarget]
    tuned: list[TrainingRun]
    """Of sources, each by the name of its source."""
    runs: list[TrainingRun]
    merges: list[MergeRun]
    scored: list[str]
    """Models that answer the tasks."""
    compared: list[tuple[str, str]]
    taught: list[str]
    """Whose beliefs are cached: sources, and `pivot` where a gate or pivot_as_source needs it."""

    @classmethod
    def of(cls, recipe: Fields) -> Resolved:
        """Write out `each`, defaults of `keep`, `models` and `compare`."""
        targets = {name: _targets(recipe, name) for name in recipe.fuse}
        runs = {name: _runs(recipe, name, targets) for name in recipe.distill}
        merges = []
        for name, merge in recipe.merge.items():
            listed = [[run.name for run in runs.get(m, [])] or [m] for m in merge.models]
            models = [model for group in listed for model in group]
            merges.append(_filled(MergeRun, merge, name=name, models=models))
        every = [run for group in runs.values() for run in group]
        single = [run.name for run in every if run.name == run.group]
        plain = [run.name for run in every if run.target is None]
        fused = [name for name in single if name not in plain] + list(recipe.merge)
        tuned = [name for name, source in recipe.sources.items() if source.tune is not None]
        scored = recipe.evaluate.models or [
            "pivot",
            *(f"source:{source}" for source in recipe.sources),
            *(f"untuned:{source}" for source in tuned),
            *single,
            *recipe.merge,
        ]
        compared = [(a, b) for a, b in recipe.evaluate.compare] or [
            *(("pivot", name) for name in [*plain, *fused]),
            *((base, name) for base in plain for name in fused),
            *((f"untuned:{source}", f"source:{source}") for source in tuned),
        ]
        made = [target for group in targets.values() for target in group]
        cached = [target for target in made if target.teacher == "cached"]
        return cls(
            targets=made,
            tuned=[_tuning(recipe, name) for name in tuned],
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
    keep = fuse.keep or 2 * recipe.teach.top_k
    return [_filled(FuseTarget, fuse, name=n, sources=s, keep=keep) for n, s in parts.items()]


def _runs(recipe: Fields, name: str, targets: dict[str, list[FuseTarget]]) -> list[TrainingRun]:
    """The run of that name, or with `each` one per target of its group."""
    distill = recipe.distill[name]
    own: dict[str, FuseTarget | None] = {name: None}
    if distill.target is not None:
        group = targets[distill.target]
        own = {name + target.name.removeprefix(distill.target): target for target in group}
    runs: list[TrainingRun] = []
    keeps = {"load_best_model_at_end": True} if distill.early_stopping else {}
    for part, target in own.items():
        decided: dict[str, Any] = {"target": None if target is None else target.name}
        if target is None:
            decided |= {"loss": "cross_entropy", "params": {}, "gold_weight": 1.0}
            decided |= {"gate": "none", "doubt": 0.1}
        if distill.start == "previous":
            decided["start"] = runs[-1].name if runs else "pivot"
        if distill.on_policy is not None and distill.on_policy.share == 0:
            decided["on_policy"] = None
        if distill.domains == "own":
            decided["domains"] = target.sources if target is not None else []
        runs.append(
            _filled(
                TrainingRun,
                distill,
                name=part,
                group=name,
                pack_tokens=recipe.data.max_length if distill.packing else None,
                training={**keeps, **recipe.training, **distill.training},
                callbacks=recipe.callbacks,
                **decided,
            )
        )
    return runs


def _tuning(recipe: Fields, name: str) -> TrainingRun:
    """The training run of a source: on the given responses, towards them alone."""
    tune = recipe.sources[name].tune
    if tune is None:
        raise ValueError(f"sources.{name} has no tune")
    rate = tune.learning_rate or (2e-5 if tune.lora is None else 2e-4)
    given = {k: v for k, v in recipe.training.items() if k not in ("max_steps", *EVALUATED)}
    length = {"num_train_epochs": tune.num_train_epochs, "learning_rate": rate}
    return _filled(
        TrainingRun,
        Distill(lora=tune.lora, domains=tune.domains, written=recipe.write_responses is None),
        name=name,
        of=name,
        group=name,
        loss="cross_entropy",
        gold_weight=1.0,
        pack_tokens=None,
        training={**given, **length, **tune.training},
        callbacks=[],
    )


def _filled(made: type[Made], section: Strict, **decided: Any) -> Made:
    """What is made of a section of the recipe: the fields that both have, but for what is decided
    here."""
    fields = type(section).model_fields.keys() & made.model_fields.keys()
    return made(**{**{key: getattr(section, key) for key in fields}, **decided})
