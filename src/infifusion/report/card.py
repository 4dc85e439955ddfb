"""The model card of a checkpoint: README.md with the front matter that the hub reads, and the
recipe beside it. Its text is web/card.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from infifusion.process.redact import redact, redact_text
from infifusion.process.wording import short_names
from infifusion.report.document import plain_text, write_text
from infifusion.report.table import CAPTION, markdown_table
from infifusion.report.use import has_chat_template, plain_template
from infifusion.store.records import Json

RECIPE = "infifusion_recipe.yaml"
DISTILLED = ("unified", "pairwise", "sft")
"""What a model's method is called that was trained; any other is a merge method."""


def write_model_card(
    model_dir: Path,
    *,
    name: str,
    recipe: Json,
    summary: Json | None,
    base_model: str,
    sources: Mapping[str, str],
    method: str,
    data: Sequence[str] = (),
    task_data: Mapping[str, tuple[str, str]] | None = None,
) -> None:
    """Write README.md and infifusion_recipe.yaml of a run's model, each whole or not at all.

    name: the model's name in the summary. recipe: the recipe as plain values. summary: what
    `summarise` returns, or None before anything is scored. base_model: the pivot's hub name or
    folder. sources: name -> hub name or folder. method: `unified`, `pairwise`, `sft`, or the
    merge method. data: hub names or files of the training data. task_data: task -> hub data set and
    split. Only hub names reach the front matter; local paths are reduced to their last folder, so
    that a card can be published.
    """
    names = public_names([base_model, *sources.values()])
    model, scores = None, "This model was not scored in its run."
    if summary is not None and name in summary["models"]:
        model, scores = summary["models"][name], f"{markdown_table(summary)}\n{CAPTION}"
    _write(
        model_dir,
        name,
        recipe,
        merged=method not in DISTILLED,
        tags=["distillation", method],
        models=[base_model],
        front={
            "datasets": _hub_names(data),
            "eval_results": None if model is None else _results(model, task_data or {}),
        },
        method=method,
        base=names[base_model],
        sources=[(source, names[path]) for source, path in sources.items()],
        scores=scores,
        plain_template=None if has_chat_template(model_dir) else repr(plain_template(recipe)),
    )


def write_merge_card(
    model_dir: Path, *, name: str, recipe: Json, base: str | None, models: list[str], method: str
) -> None:
    """The same for a model that `infifusion merge` made; recipe: the merge file's values; base and
    models as the file names them."""
    names = public_names([*([base] if base else []), *models])
    _write(
        model_dir,
        name,
        recipe,
        merged=True,
        tags=[method],
        models=[base, *models] if base else models,
        front={},
        method=method,
        base=names[base] if base else None,
        sources=None,
        scores="This model was not scored.",
        plain_template=None,
        parts=[names[model] for model in models],
    )


def hub_name(path: str) -> str | None:
    """The hub name that a model or data set is called by, without revision and adapter; None for a
    local folder or file, which the hub does not know."""
    name = path.partition("+")[0].partition("@")[0]
    if _is_local(name):
        return None
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name


def public_names(paths: Iterable[str]) -> dict[str, str]:
    """A name for each: hub names as they are, local paths by the folders that tell them apart."""
    known = list(paths)
    return {path: path for path in known} | short_names(path for path in known if _is_local(path))


def public_values(values: Any) -> Any:
    """Plain values in which every absolute or home path is reduced to the last folders that tell it
    from the others."""
    names = short_names(_private_paths(values), whole=True)

    def reduced(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: reduced(entry) for key, entry in value.items()}
        if isinstance(value, list):
            return [reduced(entry) for entry in value]
        return names.get(value, value) if isinstance(value, str) else value

    return reduced(values)


def _private_paths(values: Any) -> Iterator[str]:
    if isinstance(values, dict | list):
        for entry in values.values() if isinstance(values, dict) else values:
            yield from _private_paths(entry)
    elif isinstance(values, str) and values.startswith(("/", "~/")) and "\n" not in values:
        yield values


def _is_local(path: str) -> bool:
    return path.startswith(("/", ".", "~")) or path.count("/") > 1 or Path(path).exists()


def _hub_names(paths: Sequence[str]) -> list[str]:
    """The hub names among the paths, each once."""
    return list(dict.fromkeys(name for path in paths if (name := hub_name(path))))


def _write(
    model_dir: Path,
    name: str,
    recipe: Json,
    *,
    merged: bool,
    tags: list[str],
    models: list[str],
    front: dict[str, Any],
    **values: Any,
) -> None:
    """Both files. models: what the model was made from; front: further keys of the front matter;
    values: what web/card.md names."""
    made_from = _hub_names(models)
    matter = ModelCardData(
        base_model=made_from if len(made_from) > 1 else next(iter(made_from), None),
        base_model_relation=("merge" if merged else "finetune") if made_from else None,
        library_name="transformers",
        license="unknown",
        pipeline_tag="text-generation",
        tags=[*(["merge"] if merged else []), "infifusion", "model-fusion", *tags],
        model_name=name,
        **front,
    )
    text = yaml.safe_dump(public_values(redact(recipe)), sort_keys=False, allow_unicode=True)
    card = plain_text(
        "card.md",
        front=matter.to_yaml(),
        name=name,
        recipe=text.rstrip(),
        recipe_file=RECIPE,
        **values,
    )
    for file, content in (("README.md", card), (RECIPE, text)):
        write_text(model_dir / file, redact_text(content))


def _results(model: Json, task_data: Mapping[str, tuple[str, str]]) -> list[EvalResult] | None:
    """The model-index: accuracy of every task, bits per byte of every domain; None without any."""
    results = []
    for task, score in model["scores"].items():
        hub, split = task_data.get(task, (task, None))
        said = f"accuracy on {score['n']} items"
        results.append((hub, task, split, "accuracy", said, score["accuracy"]))
    for domain, value in model["bits_per_byte"].items():
        named, said = f"{domain} (held out)", "bits per byte of the responses"
        results.append((f"{domain}-held-out", named, None, "bits_per_byte", said, value))
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=hub,
            dataset_name=named,
            dataset_split=split,
            metric_type=metric,
            metric_name=said,
            metric_value=value,
        )
        for hub, named, split, metric, said, value in results
    ] or None
