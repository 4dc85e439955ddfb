"""distill: one training run of the pivot, on a fused target or on the gold tokens alone; tune: one
of a source, on the gold tokens."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infifusion.data.mixing import chosen_of, weighted
from infifusion.data.store import load_labels, load_rendered, load_target
from infifusion.data.tokenizers import tokenizer_of
from infifusion.errors import DataError, RecipeError
from infifusion.losses import WITHOUT_ZSCORES
from infifusion.losses.gate import FollowingGate
from infifusion.process.memory import free_memory
from infifusion.process.wording import counted
from infifusion.recipe import FuseTarget, Recipe, TrainingRun, as_json, split_of_scores
from infifusion.stages import on_policy, own_answers
from infifusion.stages.combine import find_callbacks, position_loss_of, require_rows
from infifusion.stages.online import OnlineTarget
from infifusion.store.artifacts import read_manifest
from infifusion.store.durable import files_in
from infifusion.store.folders import PIVOT, RunFolder, model_called
from infifusion.store.identity import (
    model_identity,
    prepared_hash,
    prepared_identity,
    running_identity,
    stage_identity,
)
from infifusion.store.records import read_json, write_json
from infifusion.store.stage import Finished, Stage, Work, run_stage
from infifusion.teacher.calibrate import temperature_identity
from infifusion.train.arguments import decides_nothing
from infifusion.train.batches import Collator, Teaching
from infifusion.train.held_out import HeldOut
from infifusion.train.job import Job, TrainingParts, as_data_set, with_labels
from infifusion.train.run import ADAPTER, train

NAMES = ("name", "of", "group", "target", "start", "stop_at_rise")
"""Fields of a run that decide nothing, or that say by name what the fingerprint identifies."""


def distill(recipe: Recipe, folder: RunFolder, run: TrainingRun) -> None:
    """Write model and history.json into the run's folder. All processes of torchrun take part."""
    _require_examples(folder, run)
    started_from = None if run.start == PIVOT else folder.distill(run.start)
    reads = [folder.prepare]
    if run.target is not None and _online(recipe, run) is None and not _all_own(run):
        reads.append(folder.fuse(run.target))
    reads += on_policy.read_by(recipe, folder, run)
    if started_from is not None:
        reads.append(started_from)
    stage = Stage(
        title=_title(run),
        folder=folder.trained(run),
        fingerprint={
            "run": _decides(run),
            "pivot": model_identity(model_called(recipe, run.of)),
            "prepare": prepared_identity(folder, [run.of]),
            "target": _target_identity(recipe, folder, run),
            "start": stage_identity(started_from) if started_from else None,
            "seed": recipe.seed,
            **_weights(recipe),
            **_evaluated_on(recipe, folder, run),
            **on_policy.identity(recipe, folder, run),
        },
        reads=reads,
        work=partial(_work, recipe, folder, run, started_from),
        shared=True,
        apart={
            "stop_at_rise": run.stop_at_rise,
            **({} if run.on_policy is None else {"growth": run.on_policy.stop_at_growth}),
        },
        decides_nothing=tuple(f"run.training.{key}" for key in decides_nothing(run.training)),
    )
    run_stage(stage, folder)


def _title(run: TrainingRun) -> str:
    return f"{'distill' if run.of == PIVOT else 'tune'} {run.name}"


def _decides(run: TrainingRun) -> dict[str, Any]:
    """What the recipe says of a run, without what decides nothing."""
    said = {key: value for key, value in as_json(run).items() if key not in NAMES}
    if run.on_policy is not None:
        del said["on_policy"]["stop_at_growth"]
    return said


def _all_own(run: TrainingRun) -> bool:
    """Whether the pivot writes all that the run learns."""
    return run.on_policy is not None and run.on_policy.share == 1


def _work(recipe: Recipe, folder: RunFolder, run: TrainingRun, started_from: Path | None) -> Work:
    """Train; all processes take part."""
    out = folder.trained(run)
    trained = model_called(recipe, run.of)
    tokenizer = tokenizer_of(trained)
    labels = load_labels(folder.examples("train"))
    start = trained
    if started_from is not None:
        start = trained.model_copy(update={"model": str(started_from / "model"), "revision": None})
    target = None if _all_own(run) else _target(recipe, folder, run)
    gate, domains = None, None
    if run.gate == "pivot":
        domains = [label.domain for label in labels]
        gate = FollowingGate(domains=len(set(domains)), doubt=run.doubt)
    chosen = _weighted(recipe, folder, chosen_of(labels, run.domains, run.written), len(labels))
    loaded = target.loaded if isinstance(target, OnlineTarget) else {}
    own = on_policy.own_text(recipe, folder, run, chosen, loaded)
    names = [label.id for label in labels] + ([] if own is None else own.names)
    history = train(
        Job(
            title=_title(run),
            model=start,
            tokenizer=tokenizer,
            rendered=load_rendered(folder.rendered(run.of, "train")),
            target=target,
            loss=position_loss_of(run) if run.target else None,
            gold_weight=run.gold_weight,
            gate=gate,
            domains=domains,
            loss_rows=run.loss_rows,
            stop_at_rise=run.stop_at_rise,
            training={"run_name": f"{recipe.name}/{run.name}", **run.training},
            callbacks=find_callbacks(run.callbacks),
            lora=run.lora,
            parallel=run.parallel,
            pack_tokens=run.pack_tokens,
            seed=recipe.seed,
            held_out=_held_out(recipe, folder, run),
            patience=run.early_stopping,
            chosen=chosen,
            own=own,
        ),
        out,
        name_of=names.__getitem__,
    )
    del own
    # Trainer, model and optimizer hold on to one another; the next run needs their room.
    free_memory()

    def finish() -> Finished:
        write_json(out / "history.json", history)
        written = own_answers.write_sheet(out)
        counts = {key: value for key, value in history.items() if key not in ("log", "seconds")}
        if isinstance(target, OnlineTarget):
            counts["temperatures"] = target.temperatures
        # Fewer steps than training.logging_steps: nothing was logged.
        last = f", last loss {history['log'][-1]['loss']:.4f}" if history["log"] else ""
        return Finished(
            files=[
                *files_in(out / "model"),
                *files_in(out / ADAPTER),
                out / "history.json",
                *written,
            ],
            counts=counts,
            said=f"{counted(history['steps'], 'step')}{last}",
        )

    return Work(finish)


def training_parts(recipe: Recipe, folder: RunFolder, run: TrainingRun) -> TrainingParts:
    """What `distill` would train with, for a loop of one's own; the target is fused, or its sources
    run when a batch asks for them (`teacher: online`). RecipeError where the run does what only its
    own loop can."""
    if run.gate == "pivot" or run.on_policy is not None:
        what = "gate: pivot" if run.gate == "pivot" else "on_policy"
        raise RecipeError(
            f"distill.{run.name}: {what} works in `infifusion run` alone, whose loop keeps what it "
            "learns from step to step. Take another run, or leave it out."
        )
    _require_examples(folder, run)
    rendered = load_rendered(folder.rendered(PIVOT, "train"))
    labels = load_labels(folder.examples("train"))
    chosen = _weighted(recipe, folder, chosen_of(labels, run.domains, run.written), len(labels))
    target = _target(recipe, folder, run)
    start = recipe.pivot.model
    if run.start != PIVOT:
        start = str(folder.distill(run.start) / "model")
    return TrainingParts(
        dataset=as_data_set(rendered, chosen),
        collator=with_labels(Collator(rendered, target)),
        tokenizer=tokenizer_of(recipe.pivot),
        pivot=start,
        _loss=position_loss_of(run) if run.target else None,
        _gold_weight=run.gold_weight,
        _loss_rows=run.loss_rows,
    )


def _require_examples(folder: RunFolder, run: TrainingRun) -> None:
    """DataError where `prepare` left nothing of what the run asks for: of a domain, or of the
    answers that sources wrote, or of the given responses."""
    found = read_manifest(folder.prepare, made_by="prepare")["counts"]["train"]
    for domain in run.domains or []:
        if not found.get(domain):
            raise DataError(
                f"{run.where}.domains: no training example of the domain '{domain}' is left "
                f"after prepare; it has {', '.join(f'{d} ({n})' for d, n in found.items())}. The "
                "manifest of prepare says what was left out; name other domains, or change data."
            )
    if run.written is True:
        return
    chosen = chosen_of(load_labels(folder.examples("train")), run.domains, run.written)
    if chosen is not None and not len(chosen):
        kind = "answer that a source wrote" if run.written else "given response"
        raise DataError(
            f"{run.where}.written: prepare left no {kind} to train on. The manifests of "
            "choose and prepare say what was left out; change `written`, `domains` or the data."
        )


def _weights(recipe: Recipe) -> dict[str, list[float]]:
    """The weights of the data sets, where they have some."""
    weights = [source.weight for source in recipe.data.train]
    return {"weights": weights} if any(weight != 1 for weight in weights) else {}


def _weighted(
    recipe: Recipe, folder: RunFolder, chosen: NDArray[np.int64] | None, count: int
) -> NDArray[np.int64] | None:
    """The numbers of examples, each as often as its data set's weight says."""
    if not (weights := _weights(recipe).get("weights")):
        return chosen
    number_N = np.arange(count) if chosen is None else chosen
    set_N = np.asarray(read_json(folder.data_sets)["data_sets"])[number_N]
    return weighted(number_N, set_N, weights, seed=recipe.seed)


def _evaluated_on(recipe: Recipe, folder: RunFolder, run: TrainingRun) -> dict[str, str]:
    """What a run is scored on while it trains, where it is."""
    if not run.evaluates:
        return {}
    path = folder.rendered(run.of, split_of_scores(recipe))
    return {"evaluated_on": prepared_hash(folder, path)}


def _held_out(recipe: Recipe, folder: RunFolder, run: TrainingRun) -> HeldOut | None:
    """The same, loaded. DataError where prepare left none of it."""
    if not run.evaluates:
        return None
    split = split_of_scores(recipe)
    domains = [label.domain for label in load_labels(folder.examples(split))]
    if not domains:
        raise DataError(
            f"{run.where}: training.eval_strategy scores the {split} examples, of which "
            "prepare left none. Raise data.validation_share, or give data.held_out."
        )
    return HeldOut(load_rendered(folder.rendered(run.of, split)), domains, split)


def _online(recipe: Recipe, run: TrainingRun) -> FuseTarget | None:
    """The run's target, where it is made while the run trains."""
    targets = recipe.resolve().targets
    return next((t for t in targets if t.name == run.target and t.teacher == "online"), None)


def _target_identity(recipe: Recipe, folder: RunFolder, run: TrainingRun) -> Any:
    if run.target is None:
        return None
    target = _online(recipe, run)
    if target is None:
        return stage_identity(folder.fuse(run.target), ".npy")  # weights.json is for the report
    return {
        "target": as_json(target),
        "top_k": recipe.teach.top_k,
        "sources": {
            name: {
                **running_identity(recipe.sources[name]),
                **temperature_identity(recipe.sources[name], folder, name),
            }
            for name in target.sources
        },
        "prepare": prepared_identity(folder, target.sources),
    }


def _target(recipe: Recipe, folder: RunFolder, run: TrainingRun) -> Teaching | None:
    """The target's rows, or what makes them; without what the run's loss does not read."""
    if run.target is None:
        return None
    require_rows(recipe, run)
    zscores = run.loss not in WITHOUT_ZSCORES
    online = _online(recipe, run)
    if online is not None:
        return OnlineTarget(recipe, folder, online, folder.distill(run.name), zscores=zscores)
    target = load_target(folder.fuse(run.target))
    return target if zscores else replace(target, zscore_TK=None)
