"""check: everything that can be known to be wrong before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from infifusion.data.look import look_at_data, look_at_prompts
from infifusion.data.questions import responding_sources
from infifusion.errors import CheckpointError, InfiFusionError, RecipeError
from infifusion.losses import LOSSES
from infifusion.losses import PARAMS as LOSS_PARAMS
from infifusion.merge.checkpoints.reader import Checkpoint, read_config, text_config
from infifusion.merge.engine.models import LAYER, LAYER_COUNTS
from infifusion.named import function_and_params
from infifusion.process.runtime import quantization_config
from infifusion.recipe import Model, Recipe, Resolved, WriteResponses
from infifusion.sandbox.programs import require_sandbox
from infifusion.stages.combine import check_target
from infifusion.stages.decide import choosers_of
from infifusion.stages.distill import find_callbacks
from infifusion.stages.evaluate import task_table
from infifusion.stages.merge import check_merge
from infifusion.stages.rendering import open_renderer
from infifusion.train.arguments import try_arguments
from infifusion.train.parallel import parallel_settings

# Heads that look at the whole text or give one answer for all of it.
OTHER_HEADS = (
    "ForMaskedLM",
    "ForNextSentencePrediction",
    "ForPreTraining",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForMultipleChoice",
    "ForQuestionAnswering",
)


def check_recipe(recipe: Recipe, *, ask_hub: bool = True) -> str:
    """What the recipe would make, in words; RecipeError that lists every problem found. ask_hub:
    also the first example of data sets that are not here is looked at."""
    resolved = recipe.resolve()
    data_lines, data_problems = look_at_data(recipe.data, ask_hub=ask_hub)
    model_lines, model_problems = _look_at_models(recipe)
    problems = [*model_problems, *data_problems, *_name_problems(recipe, resolved)]
    if recipe.evaluate.data and not Path(recipe.evaluate.data).is_dir():
        problems.append(f"evaluate.data: there is no folder {recipe.evaluate.data}.")
    if recipe.write_responses is not None:
        problems += _chooser_problems(recipe.write_responses)
        lines, prompt_problems = look_at_prompts(recipe.write_responses, ask_hub=ask_hub)
        data_lines, problems = [*data_lines, *lines], [*problems, *prompt_problems]
    if problems:
        listed = "\n".join(f"  {problem}" for problem in problems)
        raise RecipeError(f"The recipe '{recipe.name}' cannot run:\n{listed}")
    return _in_words(recipe, resolved, [*model_lines, *data_lines])


def _look_at_models(recipe: Recipe) -> tuple[list[str], list[str]]:
    """(what there is to know of models without a chat template, problems)."""
    models = {"pivot": recipe.pivot, **{f"sources.{n}": m for n, m in recipe.sources.items()}}
    lines, problems = [], []
    for where, model in models.items():
        problem, templated = _look_at(model)
        problems += [f"{where}: {problem}"] if problem else []
        if not problem and not templated:
            lines += [
                f"  template  {where} has no chat template: data.plain_template, "
                f"{recipe.data.plain_template!r}, unless {where}.chat_template is given"
            ]
    return lines, problems


def _look_at(model: Model) -> tuple[str | None, bool]:
    """(what is wrong, whether the model has a chat template)."""
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
        renderer = open_renderer(model, plain_template="")
        if folder.is_dir():
            _require_model_folder(folder, model, renderer.tokenizer)
        if model.quantization is not None:
            quantization_config(model.quantization)
    except InfiFusionError as error:
        here = folder.is_dir() or looks_local
        said = str(error) if here else f"{error} Paths are relative to the recipe file."
        return said, False
    return None, renderer.chat.templated


def _require_model_folder(folder: Path, model: Model, tokenizer: PreTrainedTokenizerBase) -> None:
    """CheckpointError unless the folder holds whole weights of a causal language model that embeds
    every token of the tokenizer."""
    config = read_config(folder)
    _require_causal(folder, config, own_code=model.trust_remote_code)
    _require_layers(folder, config)
    _require_embedding(folder, config, tokenizer)


def _require_causal(folder: Path, config: dict[str, Any], *, own_code: bool) -> None:
    kind, listed = config.get("model_type"), config.get("architectures")
    named = [str(name) for name in listed] if isinstance(listed, list) else []
    known = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or (own_code and "auto_map" in config)
    other = bool(named) and all(name.endswith(OTHER_HEADS) for name in named)
    if not known or other or config.get("is_encoder_decoder"):
        raise CheckpointError(
            f"{folder / 'config.json'}: {', '.join(named) or 'model_type'} ({kind}) is no causal "
            "language model that transformers knows. Give a folder that AutoModelForCausalLM loads"
            + ("; one with code of its own needs trust_remote_code: true." if not known else ".")
        )


def _require_layers(folder: Path, config: dict[str, Any]) -> None:
    """Of the groups of numbered tensors, one has as many layers as the config says, or more."""
    said = [text_config(config).get(key) for key in LAYER_COUNTS]
    count = next((number for number in said if isinstance(number, int)), 0)
    found: dict[str, set[int]] = {}
    for name in Checkpoint(folder):
        if match := LAYER.match(name):
            found.setdefault(match[1], set()).add(int(match[2]))
    if found and not any(set(range(count)) <= numbers for numbers in found.values()):
        stack = max(found, key=lambda prefix: len(found[prefix]))
        missing = sorted(set(range(count)) - found[stack])[0]
        raise CheckpointError(
            f"{folder / 'config.json'} says {count} layers, but the weights lack {stack}{missing}. "
            "Is the config.json of another model? Number the layers from 0 without a gap."
        )


def _require_embedding(
    folder: Path, config: dict[str, Any], tokenizer: PreTrainedTokenizerBase
) -> None:
    rows = text_config(config).get("vocab_size")
    if not isinstance(rows, int):
        return  # transformers' default; the teacher pass compares with the weights
    by_id = ((id, token) for token, id in tokenizer.get_vocab().items())
    largest, token = max(by_id, default=(-1, ""))
    if largest >= rows:
        raise CheckpointError(
            f"the tokenizer at {tokenizer.name_or_path} has the token {token!r} with the id "
            f"{largest}, but the model at {folder} embeds only {rows} tokens. Name the tokenizer "
            "that belongs to it (tokenizer:), or give it rows for all: "
            "model.resize_token_embeddings(len(tokenizer))."
        )


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
    for merge in resolved.merges:
        attempt(check_merge, merge)
    attempt(find_callbacks, recipe.callbacks)
    attempt(task_table, recipe)
    return list(dict.fromkeys(problems))


def _in_words(recipe: Recipe, resolved: Resolved, looked_at: list[str]) -> str:
    lines = [
        f"{recipe.name}: {len(recipe.sources)} sources into {recipe.pivot.model}",
        *looked_at,
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
        for r in resolved.runs
    ]
    lines += [f"  merge     {m.name}: {m.method} of {', '.join(m.models)}" for m in resolved.merges]
    tasks = ", ".join(recipe.evaluate.tasks) or "bits per byte only"
    lines += [f"  evaluate  {', '.join(resolved.scored)}: {tasks}"]
    return "\n".join(lines)
