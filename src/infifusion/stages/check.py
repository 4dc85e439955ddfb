"""check: everything that can be known to be wrong before anything runs."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from infifusion.data.look import look_at_data, look_at_prompts
from infifusion.data.prompts import responding_sources
from infifusion.errors import CheckpointError, InfiFusionError, RecipeError
from infifusion.estimate.advice import advice_on, mix_in_words, parts_of_training
from infifusion.evals.lm_any import require_lm_tasks
from infifusion.losses import LOSSES
from infifusion.losses import PARAMS as LOSS_PARAMS
from infifusion.merge.checkpoints.causal import require_causal_model
from infifusion.named import function_and_params
from infifusion.process.runtime import quantization_config, world_size
from infifusion.process.wording import counted
from infifusion.recipe import Model, Recipe, Resolved, TrainingRun, as_json
from infifusion.stages import own_answers
from infifusion.stages.combine import check_target, find_callbacks, position_loss_of, require_rows
from infifusion.stages.decide import chooser_problems
from infifusion.stages.evaluate import task_table
from infifusion.stages.merge import check_merge
from infifusion.stages.rendering import Renderer, look_at_chat, open_renderer
from infifusion.store.folders import PIVOT, model_called
from infifusion.teacher.arithmetic import auto_in_words
from infifusion.teacher.elsewhere import look_at_engines
from infifusion.teacher.small import small_copy
from infifusion.train.adapters import adapter_parameters
from infifusion.train.arguments import try_arguments
from infifusion.train.parallel import parallel_settings
from infifusion.train.trial import CopyFails, faults_of_model, faults_of_run
from infifusion.types import Example

FINE: set[str] = set()
"""What was tried in this process and went well: the runs of a sweep differ in little."""


def check_recipe(
    recipe: Recipe, *, ask_hub: bool = True, offline: bool = False, trials: bool = True
) -> str:
    """What the recipe would make, in words; RecipeError that lists every problem found.

    ask_hub: also the first examples of data sets that are not here are looked at, and all examples
    are counted, to warn of runs with few steps. offline: one that
    cannot be looked at is said, and no problem. trials: models are loaded and training runs take a
    step, on small copies.
    """
    resolved = recipe.resolve()
    looked = [look_at_data(recipe.data, ask_hub=ask_hub, offline=offline)]
    if recipe.write_responses is not None:
        looked.append(look_at_prompts(recipe.write_responses, ask_hub=ask_hub, offline=offline))
    data_lines, data_problems, examples = (
        list(chain(*parts)) for parts in zip(*looked, strict=True)
    )
    model_lines, model_problems, readable = _look_at_models(recipe, examples)
    engine_lines, engine_problems = look_at_engines(_models(recipe), ask=ask_hub and not offline)
    name_problems, fitting = _name_problems(recipe, resolved)
    problems = [*model_problems, *engine_problems, *data_problems, *name_problems]
    if recipe.evaluate.data and not Path(recipe.evaluate.data).is_dir():
        problems.append(f"evaluate.data: there is no folder {recipe.evaluate.data}.")
    if recipe.write_responses is not None:
        problems += chooser_problems(recipe.write_responses)
    tried: list[str] = []
    if trials and world_size() == 1:  # with several they would have to meet
        tried, failed = _trials(recipe, fitting, readable)
        problems += failed
    if problems:
        listed = "\n".join(f"  {problem}" for problem in problems)
        raise RecipeError(f"The recipe '{recipe.name}' cannot run:\n{listed}")
    parts = parts_of_training(recipe) if ask_hub else None
    mix = [f"  mix       {mix_in_words(parts)}"] if parts and len(recipe.data.train) > 1 else []
    advice = advice_on(recipe, parts) if parts else []
    warned = [f"  WARNING   {sentence}." for sentence in advice]
    looked_at = [*model_lines, *engine_lines, *data_lines, *mix, *tried]
    return "\n".join([_in_words(recipe, resolved, looked_at), *warned])


def _look_at_models(
    recipe: Recipe, examples: Sequence[Example]
) -> tuple[list[str], list[str], dict[str, Renderer]]:
    """(how each model writes the first examples, problems, the renderers of those that load)."""
    lines, problems, readable = [], [], {}
    for where, model in _models(recipe).items():
        problem, renderer = _look_at(model, recipe.data.plain_template)
        if renderer is None:
            problems.append(f"{where}: {problem}")
            continue
        readable[where] = renderer
        try:
            lines += look_at_chat(renderer, examples, where=where)
        except InfiFusionError as error:
            problems.append(f"{where}: {error}")
    return lines, problems, readable


def _models(recipe: Recipe) -> dict[str, Model]:
    """Pivot and sources by their keys."""
    return {PIVOT: recipe.pivot, **{_key_of(n): m for n, m in recipe.sources.items()}}


def _key_of(name: str) -> str:
    return name if name == PIVOT else f"sources.{name}"


def _trials(
    recipe: Recipe, runs: Sequence[TrainingRun], readable: dict[str, Renderer]
) -> tuple[list[str], list[str]]:
    """(what was tried and what could not be, problems): every model as a stage loads it, and a step
    of every run, on small copies. What went well in this process is not tried again."""
    lines, problems, done = [], [], []
    different = {_tried_as(run): run for run in reversed(runs)}
    with tempfile.TemporaryDirectory() as folder:
        for where, model in _models(recipe).items():
            key = f"{as_json(model)} {_state_of(model)}"
            mine = {name: run for name, run in different.items() if _key_of(run.of) == where}
            tried = {name: f"{key} {name}" for name in mine}
            if where not in readable or (where != PIVOT and model.engine and not mine):
                continue
            if {key, *tried.values()} <= FINE:
                done += [where, *(f"a step of {run.where}" for run in mine.values())]
                continue
            try:
                small = small_copy(model, Path(folder) / where)
            except CheckpointError as error:
                lines.append(f"  not tried {where}: {error}")
                continue
            try:
                faults = faults_of_model(model, small)
            except CopyFails as error:
                lines.append(f"  not tried {where}: its small copy does not run ({error})")
                continue
            problems += [fault.sentence(where) for fault in faults]
            done.append(where)
            FINE.update([] if faults else [key])
            blamed = {fault.key: None for fault in faults if fault.key is not None}
            small = small.model_copy(update=blamed)
            for name, run in mine.items():
                if run.parallel == "deepspeed":
                    lines.append(f"  not tried {run.where}: parallel: deepspeed")
                    continue
                tokenizer = readable[where].tokenizer
                try:
                    found = faults_of_run(run, small, position_loss_of, tokenizer)
                except CopyFails as error:
                    lines.append(f"  not tried {run.where}: no small copy trains ({error})")
                    continue
                problems += [fault.sentence(run.where) for fault in found]
                done.append(f"a step of {run.where}")
                FINE.update([] if found or faults else [tried[name]])
    told = [f"  tried     {', '.join(done)}, on small copies of the models"] if done else []
    return [*told, *lines], problems


def _state_of(model: Model) -> str:
    """What changes where another model lies in the same folder."""
    path = Path(model.model) / "config.json"
    return str(path.stat().st_mtime_ns) if path.is_file() else ""


def _tried_as(run: TrainingRun) -> str:
    """The same for runs that take the same step."""
    values = as_json(run)
    kept = ("of", "training", "lora", "parallel", "pack_tokens", "loss", "params", "on_policy")
    return json.dumps({key: values.get(key) for key in kept}) + str(run.target is None)


def _look_at(model: Model, plain_template: str) -> tuple[str, Renderer | None]:
    """(what is wrong, None), or its renderer."""
    folder = Path(model.model)
    looks_local = folder.is_absolute() or model.model.startswith((".", "~"))
    try:
        if not folder.is_dir() and looks_local:
            raise CheckpointError(
                f"there is no model folder {folder}. Give the path of a folder with config.json "
                "and safetensors weights (relative to the recipe file), or a hub name."
            )
        if folder.is_dir() and not (folder / "config.json").exists():
            raise CheckpointError(
                f"the folder {folder} holds no config.json. Give the folder that save_pretrained "
                "wrote (of a training run often its checkpoint-N)."
            )
        behind = model.engine is not None and model.engine.command is None  # weights are there
        if folder.is_dir() and not behind and not any(folder.glob("*.safetensors")):
            raise CheckpointError(
                f"the folder {folder} holds no .safetensors weights. Pickled weights are not read; "
                "save the model again with save_pretrained."
            )
        renderer = open_renderer(model, plain_template=plain_template)
        if folder.is_dir() and not behind:
            require_causal_model(folder, renderer.tokenizer, own_code=model.trust_remote_code)
        if model.quantization is not None:
            quantization_config(model.quantization)
    except InfiFusionError as error:
        here = folder.is_dir() or looks_local
        return str(error) if here else f"{error} Paths are relative to the recipe file.", None
    return "", renderer


def _name_problems(recipe: Recipe, resolved: Resolved) -> tuple[list[str], list[TrainingRun]]:
    """(problems of what is named, the training runs without one)."""
    problems: list[str] = []
    fitting = []

    def attempt(work: object, *arguments: object, **keywords: object) -> None:
        try:
            work(*arguments, **keywords)  # type: ignore[operator]
        except InfiFusionError as error:
            problems.append(str(error))

    for target in resolved.targets:
        attempt(check_target, target)
    for run in [*resolved.tuned, *resolved.runs]:
        before = len(problems)
        attempt(
            function_and_params,
            LOSSES,
            LOSS_PARAMS,
            run.loss,
            run.params,
            kind="loss",
            where=run.where,
        )
        where = f"{run.where}.training"
        attempt(try_arguments, run.training, parallel=run.parallel, where=where)
        attempt(parallel_settings, run.parallel, run.training)
        attempt(require_rows, recipe, run)
        attempt(_adapters, recipe, run)
        fitting += [run] if len(problems) == before else []
    for merge in resolved.merges:
        attempt(check_merge, recipe, merge)
    attempt(find_callbacks, recipe.callbacks)
    attempt(_require_tasks, recipe)
    return list(dict.fromkeys(problems)), fitting


def _require_tasks(recipe: Recipe) -> None:
    asked, table = recipe.evaluate, task_table(recipe)
    data = Path(asked.data) if asked.data else None
    require_lm_tasks(
        [table[task] for task in asked.tasks],
        data=data,
        drawn=asked.temperature > 0,
        where="evaluate.tasks",
    )


def _adapters(recipe: Recipe, run: TrainingRun) -> str:
    """What a run with `lora` trains of its model, as far as its config can be had."""
    if run.lora is None:
        return ""
    try:
        trained, whole = adapter_parameters(model_called(recipe, run.of), run.lora)
    except InfiFusionError:
        raise
    except Exception:  # of transformers, about the config: said where the model is looked at
        return ""
    return f", LoRA: {trained / 1e6:,.2f} M parameters of {whole / 1e6:,.1f} M"


def _in_words(recipe: Recipe, resolved: Resolved, looked_at: list[str]) -> str:
    lines = [
        f"{recipe.name}: {counted(len(recipe.sources), 'source')} into {recipe.pivot.model}",
        *looked_at,
        *([f"  {said}"] if (said := auto_in_words(recipe)) else []),
    ]
    asked = recipe.write_responses
    if asked is not None:
        named = dict.fromkeys(source.choose or asked.choose for source in asked.prompts)
        lines += [
            f"  respond   {', '.join(responding_sources(recipe))}: "
            f"{counted(len(asked.prompts), 'set')} of prompts, {counted(asked.samples, 'answer')} "
            "each",
            f"  choose    {', '.join(named)}",
        ]
    lines += [f"  tune      {r.name}{_adapters(recipe, r)}" for r in resolved.tuned]
    lines += [
        f"  teach     {', '.join(resolved.taught) or 'nobody: all targets are online'}",
    ]
    lines += [
        f"  fuse      {t.name}: {t.function} of {', '.join(t.sources)}"
        + (f", gate {t.gate}" if t.gate != "none" else "")
        for t in resolved.targets
    ]
    lines += [
        f"  distill   {r.name}: {r.loss}, gold weight {r.gold_weight}"
        + (f", target {r.target}" if r.target else "")
        + (", a gate that follows the pivot" if r.gate == "pivot" else "")
        + own_answers.in_words(recipe, r)
        + _adapters(recipe, r)
        for r in resolved.runs
    ]
    lines += [f"  merge     {m.name}: {m.method} of {', '.join(m.models)}" for m in resolved.merges]
    tasks = ", ".join(recipe.evaluate.tasks) or "bits per byte only"
    lines += [f"  evaluate  {', '.join(resolved.scored)}: {tasks}"]
    return "\n".join(lines)
