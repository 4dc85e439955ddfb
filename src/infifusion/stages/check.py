"""check: everything that can be known to be wrong before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from infifusion.data.look import look_at_data, look_at_prompts
from infifusion.data.questions import responding_sources
from infifusion.errors import CheckpointError, InfiFusionError, RecipeError
from infifusion.losses import LOSSES
from infifusion.losses import PARAMS as LOSS_PARAMS
from infifusion.merge.checkpoints.causal import require_causal_model
from infifusion.named import function_and_params
from infifusion.process.runtime import quantization_config
from infifusion.recipe import Model, Recipe, Resolved, TrainingRun, WriteResponses
from infifusion.sandbox.programs import require_sandbox
from infifusion.stages.combine import check_target
from infifusion.stages.decide import choosers_of
from infifusion.stages.distill import find_callbacks, require_rows
from infifusion.stages.evaluate import task_table
from infifusion.stages.merge import check_merge
from infifusion.stages.rendering import Renderer, look_at_chat, open_renderer
from infifusion.teacher.arithmetic import auto_in_words
from infifusion.train.adapters import adapter_parameters
from infifusion.train.arguments import try_arguments
from infifusion.train.parallel import parallel_settings
from infifusion.types import Example


def check_recipe(recipe: Recipe, *, ask_hub: bool = True) -> str:
    """What the recipe would make, in words; RecipeError that lists every problem found. ask_hub:
    also the first examples of data sets that are not here are looked at."""
    resolved = recipe.resolve()
    looked = [look_at_data(recipe.data, ask_hub=ask_hub)]
    if recipe.write_responses is not None:
        looked.append(look_at_prompts(recipe.write_responses, ask_hub=ask_hub))
    data_lines, data_problems, examples = (
        list(chain(*parts)) for parts in zip(*looked, strict=True)
    )
    model_lines, model_problems = _look_at_models(recipe, examples)
    problems = [*model_problems, *data_problems, *_name_problems(recipe, resolved)]
    if recipe.evaluate.data and not Path(recipe.evaluate.data).is_dir():
        problems.append(f"evaluate.data: there is no folder {recipe.evaluate.data}.")
    if recipe.write_responses is not None:
        problems += _chooser_problems(recipe.write_responses)
    if problems:
        listed = "\n".join(f"  {problem}" for problem in problems)
        raise RecipeError(f"The recipe '{recipe.name}' cannot run:\n{listed}")
    return _in_words(recipe, resolved, [*model_lines, *data_lines])


def _look_at_models(recipe: Recipe, examples: Sequence[Example]) -> tuple[list[str], list[str]]:
    """(how each model writes the first examples, problems)."""
    models = {"pivot": recipe.pivot, **{f"sources.{n}": m for n, m in recipe.sources.items()}}
    lines, problems = [], []
    for where, model in models.items():
        problem, renderer = _look_at(model, recipe.data.plain_template)
        if renderer is None:
            problems.append(f"{where}: {problem}")
            continue
        try:
            lines += look_at_chat(renderer, examples, where=where)
        except InfiFusionError as error:
            problems.append(f"{where}: {error}")
    return lines, problems


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
        if folder.is_dir() and not any(folder.glob("*.safetensors")):
            raise CheckpointError(
                f"the folder {folder} holds no .safetensors weights. Pickled weights are not read; "
                "save the model again with save_pretrained."
            )
        renderer = open_renderer(model, plain_template=plain_template)
        if folder.is_dir():
            require_causal_model(folder, renderer.tokenizer, own_code=model.trust_remote_code)
        if model.quantization is not None:
            quantization_config(model.quantization)
    except InfiFusionError as error:
        here = folder.is_dir() or looks_local
        return str(error) if here else f"{error} Paths are relative to the recipe file.", None
    return "", renderer


def _chooser_problems(asked: WriteResponses) -> list[str]:
    """Choosers, and the sandbox they need."""
    named = {source.choose or asked.choose for source in asked.prompts}
    try:
        choosers_of(asked)
        if "unit_tests" in named and not asked.unsafe_code:
            require_sandbox()
    except RecipeError as error:
        return [str(error)]
    except InfiFusionError as error:
        return [f"write_responses: {error}"]
    return []


def _name_problems(recipe: Recipe, resolved: Resolved) -> list[str]:
    problems = []

    def attempt(work: object, *arguments: object, **keywords: object) -> None:
        try:
            work(*arguments, **keywords)  # type: ignore[operator]
        except InfiFusionError as error:
            problems.append(str(error))

    for target in resolved.targets:
        attempt(check_target, target)
    for run in resolved.runs:
        attempt(
            function_and_params,
            LOSSES,
            LOSS_PARAMS,
            run.loss,
            run.params,
            kind="loss",
            where=f"distill.{run.name}",
        )
        where = f"distill.{run.name}.training"
        attempt(try_arguments, run.training, parallel=run.parallel, where=where)
        attempt(parallel_settings, run.parallel, run.training)
        attempt(require_rows, recipe, run)
        attempt(_adapters, recipe.pivot, run)
    for merge in resolved.merges:
        attempt(check_merge, recipe, merge)
    attempt(find_callbacks, recipe.callbacks)
    attempt(task_table, recipe)
    return list(dict.fromkeys(problems))


def _adapters(pivot: Model, run: TrainingRun) -> str:
    """What a run with `lora` trains of the pivot, as far as its config.json lies here."""
    if run.lora is None or not (Path(pivot.model) / "config.json").is_file():
        return ""
    trained, whole = adapter_parameters(pivot, run.lora)
    return f", LoRA: {trained / 1e6:,.2f} M parameters of {whole / 1e6:,.1f} M"


def _in_words(recipe: Recipe, resolved: Resolved, looked_at: list[str]) -> str:
    lines = [
        f"{recipe.name}: {len(recipe.sources)} sources into {recipe.pivot.model}",
        *looked_at,
        *([f"  {said}"] if (said := auto_in_words(recipe)) else []),
    ]
    asked = recipe.write_responses
    if asked is not None:
        named = dict.fromkeys(source.choose or asked.choose for source in asked.prompts)
        lines += [
            f"  respond   {', '.join(responding_sources(recipe))}: {len(asked.prompts)} sets of "
            f"prompts, {asked.samples} answers each",
            f"  choose    {', '.join(named)}",
        ]
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
        + _adapters(recipe.pivot, r)
        for r in resolved.runs
    ]
    lines += [f"  merge     {m.name}: {m.method} of {', '.join(m.models)}" for m in resolved.merges]
    tasks = ", ".join(recipe.evaluate.tasks) or "bits per byte only"
    lines += [f"  evaluate  {', '.join(resolved.scored)}: {tasks}"]
    return "\n".join(lines)
