"""distill: one training run of the pivot, on a fused target or on the gold tokens alone."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from infifusion.data.store import Label, load_labels, load_rendered, load_target
from infifusion.data.tokenizers import load_tokenizer
from infifusion.errors import DataError
from infifusion.losses import LOSSES, PARAMS
from infifusion.losses.sparse import SparseTarget
from infifusion.named import function_and_params
from infifusion.process.memory import free_memory
from infifusion.process.runtime import log, rank
from infifusion.recipe import FuseTarget, Recipe, TrainingRun, as_json
from infifusion.stages.online import OnlineTarget
from infifusion.store.artifacts import (
    State,
    close_stage,
    open_stage,
    read_manifest,
    share_stage,
    verify_stage,
)
from infifusion.store.durable import files_in
from infifusion.store.folders import PIVOT, RunFolder
from infifusion.store.identity import model_identity, prepared_identity, stage_identity
from infifusion.store.records import write_json
from infifusion.teacher.calibrate import temperature_identity
from infifusion.train.batches import MakesRows
from infifusion.train.job import Job
from infifusion.train.run import ADAPTER, train
from infifusion.types import Target

NAMES = ("name", "group", "target", "start", "stop_at_rise")
"""Fields of a run that decide nothing, or that say by name what the fingerprint identifies."""


def distill(recipe: Recipe, folder: RunFolder, run: TrainingRun) -> None:
    """Write distill/<run>/model and history.json. All processes of torchrun take part."""
    out = folder.distill(run.name)
    pivot = recipe.pivot
    started_from = None if run.start == PIVOT else folder.distill(run.start)
    _require_examples(folder, run)
    fingerprint = {
        "run": {key: value for key, value in as_json(run).items() if key not in NAMES},
        "pivot": model_identity(pivot),
        "prepare": prepared_identity(folder, [PIVOT]),
        "target": _target_identity(recipe, folder, run),
        "start": stage_identity(started_from) if started_from else None,
        "seed": recipe.seed,
    }
    apart = {"stop_at_rise": run.stop_at_rise}
    share_stage(out, fingerprint, folder.shared, redo=folder.redo, apart=apart)
    if open_stage(out, fingerprint, redo=folder.redo) is State.DONE:
        return
    started = time.monotonic()
    verify_stage(folder.prepare, made_by="prepare")
    if run.target is not None and _online(recipe, run) is None:
        verify_stage(folder.fuse(run.target), made_by="fuse")
    if started_from is not None:
        verify_stage(started_from, made_by="distill")
    function, params = function_and_params(
        LOSSES, PARAMS, run.loss, run.params, kind="loss", where=f"distill.{run.name}"
    )

    def position_loss(
        log_CV: torch.Tensor,
        ids_CK: torch.Tensor,
        prob_CK: torch.Tensor,
        zscore_CK: torch.Tensor,
        gold_C: torch.Tensor,
    ) -> torch.Tensor:
        target = SparseTarget(ids_CK, prob_CK, zscore_CK, gold_C, normalised=True)
        return function(log_CV, target, params)

    tokenizer = load_tokenizer(
        pivot.tokenizer or pivot.model,
        revision=pivot.revision,
        trust_remote_code=pivot.trust_remote_code,
    )
    if pivot.chat_template is not None:
        tokenizer.chat_template = pivot.chat_template
    labels = load_labels(folder.examples("train"))
    target = _target(recipe, folder, run)
    history = train(
        Job(
            title=f"distill {run.name}",
            model=str(started_from / "model") if started_from else pivot.model,
            tokenizer=tokenizer,
            rendered=load_rendered(folder.rendered(PIVOT, "train")),
            target=target,
            loss=position_loss if run.target else None,
            gold_weight=run.gold_weight,
            loss_rows=run.loss_rows,
            stop_at_rise=run.stop_at_rise,
            training={"run_name": f"{recipe.name}/{run.name}", **run.training},
            callbacks=run.callbacks,
            lora=run.lora,
            parallel=run.parallel,
            pack_tokens=run.pack_tokens,
            quantization=pivot.quantization,
            seed=recipe.seed,
            revision=pivot.revision if started_from is None else None,
            trust_remote_code=pivot.trust_remote_code,
            attn_implementation=pivot.attn_implementation,
            chosen=_chosen(run, labels),
        ),
        out,
        name_of=lambda n: labels[n].id,
    )
    # Trainer, model and optimizer hold on to one another; the next run needs their room.
    free_memory()
    if rank() != 0:
        return
    write_json(out / "history.json", history)
    counts = {key: value for key, value in history.items() if key not in ("log", "seconds")}
    if isinstance(target, OnlineTarget):
        counts["temperatures"] = target.temperatures
    close_stage(
        out,
        fingerprint,
        counts=counts,
        seconds=time.monotonic() - started,
        files=[*files_in(out / "model"), *files_in(out / ADAPTER), out / "history.json"],
    )
    # Fewer steps than training.logging_steps: nothing was logged.
    last = f", last loss {history['log'][-1]['loss']:.4f}" if history["log"] else ""
    log.info("distill %s: %d steps%s", run.name, history["steps"], last)


def _require_examples(folder: RunFolder, run: TrainingRun) -> None:
    """DataError where `prepare` left nothing of what the run asks for: of a domain, or of the
    answers that sources wrote, or of the given responses."""
    found = read_manifest(folder.prepare, made_by="prepare")["counts"]["train"]
    for domain in run.domains or []:
        if not found.get(domain):
            raise DataError(
                f"distill.{run.name}.domains: no training example of the domain '{domain}' is left "
                f"after prepare; it has {', '.join(f'{d} ({n})' for d, n in found.items())}. The "
                "manifest of prepare says what was left out; name other domains, or change data."
            )
    if run.written is True:
        return
    chosen = _chosen(run, load_labels(folder.examples("train")))
    if chosen is not None and not len(chosen):
        kind = "answer that a source wrote" if run.written else "given response"
        raise DataError(
            f"distill.{run.name}.written: prepare left no {kind} to train on. The manifests of "
            "choose and prepare say what was left out; change `written`, `domains` or the data."
        )


def _chosen(run: TrainingRun, labels: list[Label]) -> NDArray[np.int64] | None:
    """Numbers of the examples that the run trains on; None for all."""
    if run.domains is None and run.written is True:
        return None
    return np.flatnonzero(
        [
            (run.domains is None or label.domain in run.domains) and _wanted(run, label)
            for label in labels
        ]
    )


def _wanted(run: TrainingRun, label: Label) -> bool:
    if run.written == "only":
        return (label.written_by or label.confirmed_by) is not None
    return run.written or label.written_by is None


def _online(recipe: Recipe, run: TrainingRun) -> FuseTarget | None:
    """The run's target, where it is made while the run trains."""
    named = (target for target in recipe.resolve().targets if target.name == run.target)
    return next((target for target in named if target.teacher == "online"), None)


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
                **model_identity(recipe.sources[name]),
                **temperature_identity(recipe.sources[name], folder, name),
            }
            for name in target.sources
        },
        "prepare": prepared_identity(folder, target.sources),
    }


def _target(recipe: Recipe, folder: RunFolder, run: TrainingRun) -> Target | MakesRows | None:
    """The target's rows, or what makes them."""
    if run.target is None:
        return None
    online = _online(recipe, run)
    if online is not None:
        return OnlineTarget(recipe, folder, online, folder.distill(run.name))
    return load_target(folder.fuse(run.target))
